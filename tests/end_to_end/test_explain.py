"""The command `explain`."""

import json

import numpy as np
import pytest
from PIL import Image

from resnet_jax.attribution.methods import METHODS
from tests.end_to_end.program import run, run_without_jax


def explain(*arguments):
    return run("explain", *arguments)


def records(directory):
    return [json.loads(line) for line in (directory / "explanations.jsonl").read_text().splitlines()]


def test_explain_writes_a_figure_and_maps_for_each_image(tmp_path, finished_run):
    """The images are larger than those of the model, and one of them is not square."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in (("wide.png", (24, 16)), ("square.png", (8, 8))):
        pixels = np.random.default_rng(0).integers(256, size=size[::-1], dtype=np.uint8)
        Image.fromarray(pixels).save(photos / name)
    (photos / "broken.png").write_text("no image")
    target = tmp_path / "explanations"
    finished = explain(
        f"--workdir={finished_run}",
        str(photos),
        "--method=grad_cam,integrated_gradients",
        "--target=3",
        f"--to={target}",
        "--format=json",
    )
    assert finished.returncode == 1, finished.stderr
    (line,) = finished.stdout.splitlines()
    summary = json.loads(line)
    assert (summary["explained"], summary["failed"], summary["faithfulness"]) == (2, 1, None)
    assert summary["completeness_gaps"]["integrated_gradients"] >= 0
    broken, square, wide = records(target)
    assert broken["image"].endswith("broken.png") and "not a JPEG" in broken["error"]
    assert (square["target"], square["label"], square["error"]) == ("3", None, None)
    for record, shape in ((square, (8, 8)), (wide, (16, 24))):
        maps = np.load(target / record["maps"])
        assert {name: (values.dtype.name, values.shape) for name, values in maps.items()} == {
            "grad_cam": ("float32", shape),
            "integrated_gradients": ("float32", shape),
        }
        with Image.open(target / record["figure"]) as figure:
            assert figure.width > 3 * 224
    maps = np.load(target / wide["maps"])["integrated_gradients"]
    assert not maps[:, :4].any() and not maps[:, 20:].any() and maps[:, 4:20].any()  # The central square is seen.


@pytest.mark.slow
def test_explain_chooses_examples_of_a_split_and_measures_faithfulness(tmp_path, finished_run):
    arguments = (f"--workdir={finished_run}", "--split=test", "--method=grad_cam,guided_backpropagation")
    worst = explain(*arguments, "--examples=worst:4", f"--to={tmp_path}/worst", "--faithfulness", "--format=json")
    assert worst.returncode == 0, worst.stderr
    measured = json.loads(worst.stdout.splitlines()[-1])["faithfulness"]
    assert list(measured) == ["grad_cam", "guided_backpropagation", "random"]
    for values in measured.values():
        for area in ("deletion", "insertion"):
            assert 0 < values[area]["mean"] < 1 and values[area]["margin"] > 0
    assert measured["random"]["random_head"] is None
    assert -1 <= measured["grad_cam"]["random_head"] <= 1
    mistakes = records(tmp_path / "worst")
    assert len(mistakes) == 4
    assert all(record["label"] != record["prediction"] == record["target"] for record in mistakes)
    chosen = explain(*arguments, "--examples=5,2", f"--to={tmp_path}/chosen")
    assert chosen.returncode == 0, chosen.stderr
    assert [record["image"] for record in records(tmp_path / "chosen")] == ["test[5]", "test[2]"]
    assert "Explained 2 of 2 images in" in chosen.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["x.png", "--stage=stage9"], "unknown stage 'stage9'. Did you mean"),
        (["x.png", "--split=test"], "explain takes either images or --split"),
        (["x.png", "--examples=worst:3"], "--examples chooses examples of a split"),
        (["--split=test", "--examples=3,999"], "--examples=3,999 goes beyond the last example"),
    ],
)
def test_wrong_explanation_is_reported(tmp_path, finished_run, arguments, sentence):
    finished = explain(f"--workdir={finished_run}", f"--to={tmp_path}/new", *arguments)
    assert finished.returncode == 2
    (line,) = finished.stderr.strip().splitlines()
    assert line.startswith("error: ") and sentence in line
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_model_of_a_recipe_with_loaded_weights_is_explained_like_the_run(tmp_path, finished_run):
    recipe = ("--config=configs/digits.py", "--config.model.name=tiny", f"--config.init_from={finished_run}")
    for name, model in (("loaded", recipe), ("run", (f"--workdir={finished_run}",))):
        finished = explain(*model, "--split=test", "--examples=0,1", "--method=hires_cam", f"--to={tmp_path}/{name}")
        assert finished.returncode == 0, finished.stderr
    for loaded, own in zip(records(tmp_path / "loaded"), records(tmp_path / "run"), strict=True):
        assert loaded == own
        maps, expected = (np.load(tmp_path / name / own["maps"])["hires_cam"] for name in ("loaded", "run"))
        assert expected.any()
        np.testing.assert_array_equal(maps, expected)


def test_help_names_all_methods():
    shown = run_without_jax("explain", "--help").stdout
    assert [name for name in METHODS if name not in shown] == []


def test_directory_with_files_is_not_overwritten(tmp_path, finished_run):
    (tmp_path / "explanations.jsonl").write_text("")
    finished = explain(f"--workdir={finished_run}", "x.png", f"--to={tmp_path}")
    assert finished.returncode == 2
    assert "is not empty. Choose another directory" in finished.stderr
