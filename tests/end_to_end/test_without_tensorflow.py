"""Runs without TensorFlow, which is hidden from the program as if it were not installed.

Without TensorFlow, a run writes no TensorBoard files, and a TFDS dataset can be read but not prepared.
"""

import json

import pytest

from tests.end_to_end.program import run


def train_and_evaluate(tmp_path, *arguments, **environment):
    workdir = f"--workdir={tmp_path}/run"
    trained = run(*arguments, workdir, **environment)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.count("TensorBoard is off") == 1
    assert not list((tmp_path / "run").glob("events*"))
    evaluated = run("evaluate", workdir, "--format=json", **environment)
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout.splitlines()[-1])
    assert scores["top1"] == json.loads((tmp_path / "run" / "result.json").read_text())["test"]["top1"]


@pytest.mark.slow
def test_prepared_tfds_dataset_is_read_without_tensorflow(tmp_path, test_data):
    train_and_evaluate(
        tmp_path,
        "--config=configs/cifar10.py:resnet20",
        "--config.model.name=tiny",
        "--config.num_epochs=2",
        "--config.batch_size=32",
        f"--config.dataset.data_dir={test_data / 'tfds'}",
        "--config.dataset.train_split=train[:160]",
        "--config.dataset.test_split=test[:50]",
    )


def test_preparing_a_tfds_dataset_without_tensorflow_fails_with_advice(tmp_path):
    """The archive is already in place, so nothing is downloaded."""
    manual = tmp_path / "data" / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "cifar-10-binary.tar.gz").write_bytes(b"")
    finished = run(
        "--config=configs/cifar10.py",
        f"--workdir={tmp_path}/run",
        f"--config.dataset.data_dir={tmp_path}/data",
        program="main.py",
    )
    assert finished.returncode == 2
    assert "Preparing it needs TensorFlow, which is not installed" in finished.stderr
