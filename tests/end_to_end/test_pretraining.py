"""Pre-training without labels and what follows it, by the commands that users type."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.sources import open_sources
from tests.conftest import train_once
from tests.end_to_end.program import run

PRETRAIN = (
    "--config=configs/pretrain.py:simclr",
    "--config.dataset.name=digits",
    "--config.model.name=tiny",
    "--config.augment.horizontal_flip=False",
    "--config.batch_size=64",
    "--config.num_epochs=2",
    "--config.pretrain.projector=(16,16)",
    "--config.log_every_steps=5",
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The directory of a finished run."""

    def train(workdir):
        finished = run(*PRETRAIN, f"--workdir={workdir}")
        assert finished.returncode == 0, finished.stderr
        assert "kNN top-1" in finished.stdout

    return train_once(tmp_path_factory, "pretrained", train)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with six digits."""
    folder = tmp_path_factory.mktemp("pictures")
    source = open_sources("digits")["test"]
    for index in range(6):
        Image.fromarray(source[index][0][..., 0]).save(folder / f"{index}.png")
    return folder


@pytest.mark.slow
def test_probe_prints_a_table(pretrained):
    probed = run("probe", f"--workdir={pretrained}", "--fractions=1,0.1")
    assert probed.returncode == 0, probed.stderr
    assert "linear top-1" in probed.stdout
    assert probed.stdout.splitlines()[-1].startswith("random weights")


@pytest.mark.slow
def test_probe_has_the_splits_of_the_run(tiny_run, tmp_path):
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    splits = {"train": "train[:500]", "validation": "train[500:600]", "test": "train[600:]"}
    config["dataset"].update({f"{purpose}_split": split for purpose, split in splits.items()})
    (workdir / "config.json").write_text(json.dumps(config))
    probed = run("probe", f"--workdir={workdir}", "--fractions=1", "--format=json")
    assert probed.returncode == 0, probed.stderr
    assert json.loads(probed.stdout.splitlines()[-1])["splits"] == splits


@pytest.mark.slow
def test_probe_takes_the_labels_from_another_dataset_and_prints_json(pretrained, tiny_run):
    arguments = ("--config=configs/digits.py", "--fractions=1", "--format=json", str(tiny_run))
    probed = run("probe", f"--workdir={pretrained}", *arguments)
    assert probed.returncode == 0, probed.stderr
    values = json.loads(probed.stdout.splitlines()[-1])
    assert values["dataset"] == "digits"
    assert values["splits"]["test"] == "test"
    names = [result["features"] for result in values["results"]]
    assert names == [str(pretrained), str(tiny_run), "random weights"]


@pytest.mark.slow
def test_features_can_be_written_and_compared(pretrained, pictures, tmp_path):
    features = ("--features", str(tmp_path / "features.npz"))
    written = run("predict", f"--workdir={pretrained}", *features, str(pictures))
    assert written.returncode == 0, written.stderr
    assert np.load(tmp_path / "features.npz")["features"].shape == (6, 16)
    similar = ("--similar_to", str(pictures), "--top=1", "--format=json", str(pictures / "0.png"))
    found = run("predict", f"--workdir={pretrained}", *similar)
    assert found.returncode == 0, found.stderr
    (picture,) = json.loads(found.stdout.splitlines()[-1])["pictures"]
    assert picture["best"][0]["similar"] == str(pictures / "0.png")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "evaluate", "explain", "export"])
def test_commands_that_need_classes_say_what_to_do(pretrained, pictures, tmp_path, command):
    arguments = {
        "predict": (str(pictures),),
        "evaluate": ("--split=train",),
        "explain": (f"--to={tmp_path}/maps", str(pictures)),
        "export": (f"--to={tmp_path}/model.stablehlo",),
    }
    refused = run(command, f"--workdir={pretrained}", *arguments[command])
    assert refused.returncode == 2, refused.stderr
    assert "was pre-trained by simclr and predicts no classes" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_weights_and_features_can_be_exported(pretrained, tmp_path):
    for target in ("model.safetensors", "model.stablehlo"):
        outputs = () if target.endswith("safetensors") else ("--outputs=features",)
        to = (f"--to={tmp_path / target}", *outputs)
        exported = run("export", f"--workdir={pretrained}", *to)
        assert exported.returncode == 0, exported.stderr


@pytest.mark.slow
def test_pretrained_weights_are_fine_tuned(pretrained, tmp_path):
    recipe = ("--config=configs/digits.py", "--config.model.name=tiny", "--config.num_epochs=1")
    tuned = run(*recipe, f"--config.init_from={pretrained}", f"--workdir={tmp_path}/tuned")
    assert tuned.returncode == 0, tuned.stderr
    assert f"Weights of {pretrained}" in tuned.stdout


@pytest.mark.slow
def test_report_shows_curves_views_and_neighbors(pretrained, tmp_path):
    written = run("report", f"--workdir={pretrained}", f"--to={tmp_path}/report.html")
    assert written.returncode == 0, written.stderr
    page = (tmp_path / "report.html").read_text()
    for text in ("kNN top-1", "Effective rank", ">Views<", ">Nearest neighbors<", "simclr"):
        assert text in page
    assert "Confusion matrix" not in page
