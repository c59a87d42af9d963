"""Prediction as a user calls it."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.sources import open_sources
from resnet_jax.trained_model import load_run
from tests.end_to_end.program import run


@pytest.fixture
def pictures(tmp_path):
    """A folder with ten digits and a file that is none."""
    for number, image in enumerate(open_sources("digits")["test"].images[:10]):
        (tmp_path / "pictures" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(tmp_path / "pictures" / str(number % 2) / f"{number}.png")
    (tmp_path / "pictures" / "bad.jpg").write_text("I am no picture.")
    return tmp_path / "pictures"


def test_a_folder_as_csv_with_features(finished_run, pictures, tmp_path):
    arguments = (f"--workdir={finished_run}", str(pictures), "--format=csv", "--top=2")
    finished = run("predict", *arguments, f"--features={tmp_path}/out.npz")
    assert finished.returncode == 1, finished.stderr
    assert finished.stderr.splitlines()[-1] == "1 of 11 pictures could not be read."
    rows = {row["picture"]: row for row in csv.DictReader(finished.stdout.splitlines())}
    paths = sorted(str(path) for path in pictures.rglob("*.*"))
    assert list(rows) == paths
    assert rows[f"{pictures}/bad.jpg"]["error"] == "it is no JPEG, PNG, WebP, BMP or GIF picture"
    good = [path for path in paths if "bad" not in path]
    predictions = load_run(str(finished_run)).predict(good)
    assert tuple(rows[path]["class_1"] for path in good) == predictions.names
    found = [float(rows[path]["probability_1"]) for path in good]
    np.testing.assert_allclose(found, predictions.probabilities.max(axis=-1), atol=1e-5)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file["names"].tolist() == good
        assert file["features"].shape == (10, 16)


def test_the_nearest_of_a_folder_as_json(finished_run, pictures):
    (pictures / "bad.jpg").unlink()
    wanted = str(pictures / "1" / "3.png")
    finished = run("predict", f"--workdir={finished_run}", wanted, f"--similar_to={pictures}", "--format=json")
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    found = json.loads(line)
    assert (found["failed"], found["checkpoint_step"]) == (0, load_run(str(finished_run)).step)
    (picture,) = found["pictures"]
    assert (picture["picture"], picture["error"], len(picture["best"])) == (wanted, None, 3)
    assert picture["best"][0] == {"similar": wanted, "similarity": pytest.approx(1, abs=1e-6)}


def test_a_table_on_several_devices_from_weights(finished_run, pictures):
    weights = ("--config=configs/digits.py", "--config.model.name=tiny", f"--config.init_from={finished_run}")
    devices = "--xla_force_host_platform_device_count=4"
    finished = run("predict", *weights, f"{pictures}/0/0.png", "/nowhere/cat.jpg", "--top=99", XLA_FLAGS=devices)
    assert finished.returncode == 1, finished.stderr
    _, _, digit, cat = finished.stdout.splitlines()
    assert digit.startswith(f"{pictures}/0/0.png")
    assert digit.count("%") == 10
    assert cat.split("  ")[-1] == "cannot be read: No such file or directory"
