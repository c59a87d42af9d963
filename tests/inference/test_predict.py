"""Many files in a row, good and bad."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.inference import predict
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import Outputs
from tests.end_to_end.image_files import unreadable_image_files
from tests.recording_reporter import RecordingReporter

BAD = unreadable_image_files()
REPORTER = Reporter(active=False)


def joined(batches):
    """All pictures, and the outputs of those that can be read, by place."""
    pictures, found, problems = [], {}, {}
    for some, outputs in batches:
        for place, name in enumerate(some):
            if place in outputs.problems:
                problems[len(pictures)] = outputs.problems[place]
            else:
                found[len(pictures)] = outputs.probabilities[place]
            pictures.append(name)
    return pictures, found, problems


class TestFinding:
    def test_files_folders_and_standard_input_in_the_order_given(self, write, tmp_path):
        write({"b.png": 0, "a/z.JPG": b"", "a/y.webp": b"", "notes.txt": b"", ".hidden.png": b"", ".no/x.png": b""})
        (other,) = write({"odd name": b""}, "elsewhere")
        root = str(tmp_path / "pictures")
        found = [f"{root}/a/y.webp", f"{root}/a/z.JPG", f"{root}/b.png"]
        assert predict.find([other, f"{root}/", "-", "/nowhere/x.png"]) == [other, *found, "-", "/nowhere/x.png"]

    def test_relative_paths_stay_relative(self, write, tmp_path, monkeypatch):
        write({"a/z.png": 0})
        monkeypatch.chdir(tmp_path)
        assert predict.find(["pictures"]) == ["pictures/a/z.png"]
        assert predict.find(["."]) == ["./pictures/a/z.png"]

    def test_links_in_circles_end(self, write, tmp_path, monkeypatch):
        write({"a/z.png": 0})
        (tmp_path / "pictures" / "a" / "again").symlink_to(tmp_path / "pictures")
        monkeypatch.chdir(tmp_path)
        for name in ("pictures", "pictures/", str(tmp_path / "pictures")):
            assert len(predict.find([name])) == 1

    def test_a_folder_without_pictures_is_refused(self, write, tmp_path):
        write({"notes.txt": b""})
        with pytest.raises(UserError, match="pictures holds no pictures: their names end in"):
            predict.find([str(tmp_path / "pictures")])
        with pytest.raises(UserError, match="there is no folder /nowhere"):
            predict.find_in("/nowhere")


def test_each_file_is_answered_for_in_order_with_bad_ones_among_them(run, images, write):
    """More than a few batches of 64, whose ends are also bad."""
    contents = {f"{number}.png": number for number in range(300)}
    bad = {0: b"", 63: BAD["cut.jpg"], 64: BAD["text.jpg"], 150: BAD["cut.gif"], 299: BAD["bomb.png"]}
    contents |= {f"{number}.png": content for number, content in bad.items()}
    paths, reporter = [*write(contents), "/nowhere/gone.png"], RecordingReporter()
    pictures, found, problems = joined(predict.outputs(run, paths, reporter))
    assert pictures == paths
    assert problems.keys() == {*bad, 300}
    assert problems[0] == "the file is empty"
    assert problems[300] == "No such file or directory"
    expected = run.predict(images).probabilities
    for place, probabilities in found.items():
        np.testing.assert_allclose(probabilities, expected[place], rtol=1e-5)
    assert reporter.progress == [("reading images", done, 301) for done in (64, 128, 192, 256, 301)]


def test_files_that_are_named_twice(run, write):
    good, bad = write({"a.png": 3, "bad.png": b""})
    pictures, found, problems = joined(predict.outputs(run, [bad, good, bad, good], REPORTER))
    assert pictures == [bad, good, bad, good]
    assert problems == {0: "the file is empty", 2: "the file is empty"}
    np.testing.assert_array_equal(found[1], found[3])


def test_a_picture_on_standard_input(run, images, write, monkeypatch):
    (path,) = write({"a.png": 7})
    with open(path, "rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(file.read())))
    pictures, found, problems = joined(predict.outputs(run, ["-", path], REPORTER))
    assert (pictures, problems) == (["-", path], {})
    np.testing.assert_array_equal(found[0], found[1])


def test_only_bad_files(run):
    pictures, found, problems = joined(predict.outputs(run, ["/nowhere/a.png"], REPORTER))
    assert (pictures, found, problems) == (["/nowhere/a.png"], {}, {0: "No such file or directory"})


def test_the_likeliest_classes_are_named():
    probabilities = np.array([[0.1, 0.6, 0.3], [0.25, 0.5, 0.25], [0, 0, 0]], np.float32)
    outputs = Outputs(probabilities, np.zeros((3, 2), np.float32), {2: "it is wet"})
    first, second, third = predict.answers(["a", "b", "c"], outputs, predict.likeliest(("x", "y", "z"), 2))
    assert first == ("a", [("y", pytest.approx(0.6)), ("z", pytest.approx(0.3))], None)
    assert second == ("b", [("y", 0.5), ("x", 0.25)], None)  # Of equals, the first class.
    assert third == ("c", [], "it is wet")
    (answer, *_) = predict.answers(["a", "b", "c"], outputs, predict.likeliest(("x", "y", "z"), 9))
    assert [name for name, _ in answer.best] == ["y", "z", "x"]
