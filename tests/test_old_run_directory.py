"""A run directory that an earlier version wrote still opens, resumes, evaluates and produces a report.

The fixture is a finished run of two epochs of the tiny model on digits, without its TensorBoard event files. It was
written at commit ad5e086 by

    python tests/end_to_end/tiny.py --config=configs/digits.py --config.model.name=tiny --config.num_epochs=2
        --config.schedule.warmup_epochs=0.5 --config.dataset.train_split='train[:600]' --config.log_every_steps=3
        --config.ema_decay=0.9 --config.checkpoint.keep=1 --workdir=/tmp/run
"""

import json
import tarfile

import numpy as np
import pytest
from sklearn.datasets import load_digits

import resnet_jax
from resnet_jax.workdir.workdir import WorkDir
from tests.conftest import ROOT
from tests.end_to_end.program import run

ARCHIVE = ROOT / "tests" / "fixtures" / "old_run_directory.tar.gz"


@pytest.fixture
def old_run(tmp_path):
    """A fresh copy of the old run directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def test_fixture_is_small():
    assert ARCHIVE.stat().st_size <= 100_000


def test_old_run_loads_and_predicts(old_run):
    trained = resnet_jax.load_run(str(old_run))
    assert trained.step == 16
    digits = (load_digits().images[:5, :, :, None] * 255 / 16).round().astype(np.uint8)
    predictions = trained.predict(digits)
    assert predictions.probabilities.shape == (5, 10)
    np.testing.assert_allclose(predictions.probabilities.sum(axis=-1), 1.0, rtol=1e-5)


def test_old_run_resumes(old_run, capsys):
    config = WorkDir(str(old_run)).config()
    config.num_epochs = 3
    result = resnet_jax.train(config, str(old_run))
    assert "Resuming from step 16 of 24" in capsys.readouterr().out
    assert resnet_jax.load_run(str(old_run)).step == result["checkpoint_step"]
    records = [json.loads(line) for line in (old_run / "metrics.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records]
    assert steps == sorted(steps)
    assert steps[-1] == 24
    assert result["test"]["examples"] == 359


def test_old_run_evaluates_to_its_recorded_metrics(old_run):
    recorded = WorkDir(str(old_run)).result()
    evaluated = run("evaluate", f"--workdir={old_run}", "--format=json")
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads(evaluated.stdout.splitlines()[-1])
    assert metrics["checkpoint_step"] == recorded["checkpoint_step"]
    assert metrics["loss"] == pytest.approx(recorded["test"]["loss"], rel=1e-5)
    for name in ("top1", "top5", "examples", "unreadable"):
        assert metrics[name] == recorded["test"][name]


@pytest.mark.slow
def test_old_run_produces_a_report(old_run):
    reported = run("report", f"--workdir={old_run}")
    assert reported.returncode == 0, reported.stderr
    assert "<h1>tiny on digits</h1>" in (old_run / "report.html").read_text()
