"""Prediction for many image files, some of them unreadable."""

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

UNREADABLE = unreadable_image_files()
REPORTER = Reporter(active=False)


def join(batches):
    """Return all paths, the probabilities of the readable images, and the problems of the others, by index."""
    paths, probabilities, problems = [], {}, {}
    for batch, outputs in batches:
        for index, path in enumerate(batch):
            if index in outputs.problems:
                problems[len(paths)] = outputs.problems[index]
            else:
                probabilities[len(paths)] = outputs.probabilities[index]
            paths.append(path)
    return paths, probabilities, problems


class TestFindImages:
    def test_lists_files_folders_and_standard_input_in_the_order_given(self, write, tmp_path):
        write({"b.png": 0, "a/z.JPG": b"", "a/y.webp": b"", "notes.txt": b"", ".hidden.png": b"", ".no/x.png": b""})
        (other,) = write({"odd name": b""}, "elsewhere")
        root = str(tmp_path / "images")
        in_folder = [f"{root}/a/y.webp", f"{root}/a/z.JPG", f"{root}/b.png"]
        assert predict.find_images([other, f"{root}/", "-", "/nowhere/x.png"]) == [
            other,
            *in_folder,
            "-",
            "/nowhere/x.png",
        ]

    def test_counts_the_files_that_it_ignores(self, write, tmp_path, caplog):
        write({"a.jfif": b"", "b.tif": b"", "c.heic": b"", "notes.txt": b"", "@eaDir/d.jpg": b""})
        root = str(tmp_path / "images")
        assert predict.find_images([root]) == [f"{root}/a.jfif", f"{root}/b.tif"]
        assert caplog.messages == [f"Ignored files in {root} that, by name, are not images: 2 (1 .heic, 1 .txt)."]

    def test_keeps_relative_paths_relative(self, write, tmp_path, monkeypatch):
        write({"a/z.png": 0})
        monkeypatch.chdir(tmp_path)
        assert predict.find_images(["images"]) == ["images/a/z.png"]
        assert predict.find_images(["."]) == ["./images/a/z.png"]

    def test_follows_circular_links_only_once(self, write, tmp_path, monkeypatch):
        write({"a/z.png": 0})
        (tmp_path / "images" / "a" / "again").symlink_to(tmp_path / "images")
        monkeypatch.chdir(tmp_path)
        for name in ("images", "images/", str(tmp_path / "images")):
            assert len(predict.find_images([name])) == 1

    def test_rejects_a_folder_without_images(self, write, tmp_path):
        write({"notes.txt": b""})
        with pytest.raises(UserError, match=r"there are no images in .*images\. Image names end in"):
            predict.find_images([str(tmp_path / "images")])
        with pytest.raises(UserError, match=r"there is no such folder \(/nowhere\)"):
            predict.find_in_folder("/nowhere")


def test_predictions_are_in_order_with_unreadable_images_among_them(trained, images, write):
    """There are several batches of 64. Among the unreadable images are the first and the last of a batch."""
    contents = {f"{number}.png": number for number in range(300)}
    unreadable_files = {
        0: b"",
        63: UNREADABLE["cut.jpg"],
        64: UNREADABLE["text.jpg"],
        150: UNREADABLE["cut.gif"],
        299: UNREADABLE["bomb.png"],
    }
    contents |= {f"{number}.png": content for number, content in unreadable_files.items()}
    paths, reporter = [*write(contents), "/nowhere/gone.png"], RecordingReporter()
    actual_paths, actual, problems = join(predict.model_outputs(trained, paths, reporter))
    assert actual_paths == paths
    assert problems.keys() == {*unreadable_files, 300}
    assert problems[0] == "the file is empty"
    assert problems[300] == "No such file or directory"
    expected = trained.predict(images).probabilities
    for index, probabilities in actual.items():
        np.testing.assert_allclose(probabilities, expected[index], rtol=1e-5)
    assert reporter.progress == [("reading images", done, 301) for done in (64, 128, 192, 256, 301)]


def test_files_can_be_given_twice(trained, write):
    good, bad = write({"a.png": 3, "bad.png": b""})
    actual_paths, actual, problems = join(predict.model_outputs(trained, [bad, good, bad, good], REPORTER))
    assert actual_paths == [bad, good, bad, good]
    assert problems == {0: "the file is empty", 2: "the file is empty"}
    np.testing.assert_array_equal(actual[1], actual[3])


def test_image_on_standard_input_is_read(trained, images, write, monkeypatch):
    (path,) = write({"a.png": 7})
    with open(path, "rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(file.read())))
    actual_paths, actual, problems = join(predict.model_outputs(trained, ["-", path], REPORTER))
    assert (actual_paths, problems) == (["-", path], {})
    np.testing.assert_array_equal(actual[0], actual[1])


def test_only_unreadable_files_give_no_predictions(trained):
    actual_paths, actual, problems = join(predict.model_outputs(trained, ["/nowhere/a.png"], REPORTER))
    assert (actual_paths, actual, problems) == (["/nowhere/a.png"], {}, {0: "No such file or directory"})


def test_rank_by_probability_orders_classes():
    probabilities = np.array([[0.1, 0.6, 0.3], [0.25, 0.5, 0.25], [0, 0, 0]], np.float32)
    outputs = Outputs(probabilities, np.zeros((3, 2), np.float32), {2: "it is wet"})
    first, second, third = predict.predictions(
        ["a", "b", "c"], outputs, predict.rank_by_probability(("x", "y", "z"), 2)
    )
    assert first == ("a", [("y", pytest.approx(0.6)), ("z", pytest.approx(0.3))], None)
    assert second == ("b", [("y", 0.5), ("x", 0.25)], None)  # The first of equally probable classes.
    assert third == ("c", [], "it is wet")
    (prediction, *_) = predict.predictions(["a", "b", "c"], outputs, predict.rank_by_probability(("x", "y", "z"), 9))
    assert [name for name, _ in prediction.ranking] == ["y", "z", "x"]
