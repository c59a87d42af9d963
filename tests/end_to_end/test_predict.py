"""The command `predict`."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.sources import open_sources
from resnet_jax.trained_model import load_run
from tests.end_to_end.program import run, start


@pytest.fixture
def folder(tmp_path):
    """A folder with images of ten digits and a file that is not an image."""
    folder = tmp_path / "images"
    for number, image in enumerate(open_sources("digits")["test"].images[:10]):
        (folder / str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / str(number % 2) / f"{number}.png")
    (folder / "bad.jpg").write_text("This is not an image.")
    return folder


def test_predict_writes_csv_and_features_of_a_folder(finished_run, folder, tmp_path):
    arguments = (f"--workdir={finished_run}", str(folder), "--format=csv", "--top=2")
    finished = run("predict", *arguments, f"--features={tmp_path}/out.npz")
    assert finished.returncode == 1, finished.stderr
    assert finished.stderr.splitlines()[-1] == "1 of 11 images could not be read."
    rows = {row["picture"]: row for row in csv.DictReader(finished.stdout.splitlines())}
    paths = sorted(str(path) for path in folder.rglob("*.*"))
    assert list(rows) == paths
    assert rows[f"{folder}/bad.jpg"]["error"] == "not a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM image"
    good = [path for path in paths if "bad" not in path]
    predictions = load_run(str(finished_run)).predict(good)
    assert tuple(rows[path]["class_1"] for path in good) == predictions.names
    probabilities = [float(rows[path]["probability_1"]) for path in good]
    np.testing.assert_allclose(probabilities, predictions.probabilities.max(axis=-1), atol=1e-5)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file["names"].tolist() == good
        assert file["features"].shape == (10, 16)


@pytest.mark.parametrize("reads_header", [True, False])
def test_predict_writes_the_features_if_the_reader_of_the_predictions_ends_early(
    finished_run, folder, tmp_path, reads_header
):
    process = start("predict", f"--workdir={finished_run}", str(folder), f"--features={tmp_path}/out.npz")
    if reads_header:
        assert process.stdout.readline().startswith("image")
    process.stdout.close()
    process.communicate()
    # A pipe may hold all the predictions before its reader closes it. Then the unreadable picture decides the status.
    assert process.returncode in ((1, 141) if reads_header else (141,))
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert len(file["names"]) == 10


def test_predict_writes_the_most_similar_images_of_a_folder_as_json(finished_run, folder):
    (folder / "bad.jpg").unlink()
    query = str(folder / "1" / "3.png")
    finished = run("predict", f"--workdir={finished_run}", query, f"--similar_to={folder}", "--format=json")
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    result = json.loads(line)
    assert (result["failed"], result["checkpoint_step"]) == (0, load_run(str(finished_run)).step)
    (prediction,) = result["pictures"]
    assert (prediction["picture"], prediction["error"], len(prediction["best"])) == (query, None, 3)
    assert prediction["best"][0] == {"similar": query, "similarity": pytest.approx(1, abs=1e-6)}


def test_predict_prints_a_table_from_weights_on_several_devices(finished_run, folder):
    weights = ("--config=configs/digits.py", "--config.model.name=tiny", f"--config.init_from={finished_run}")
    devices = "--xla_force_host_platform_device_count=4"
    finished = run("predict", *weights, f"{folder}/0/0.png", "/nowhere/cat.jpg", "--top=99", XLA_FLAGS=devices)
    assert finished.returncode == 1, finished.stderr
    _, _, digit, cat = finished.stdout.splitlines()
    assert digit.startswith(f"{folder}/0/0.png")
    assert digit.count("%") == 10
    assert cat.split("  ")[-1] == "cannot be read: No such file or directory"
