import csv
import json
import pathlib
import subprocess

import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.evaluation.model_comparison import McNemar
from resnet_jax.studies import repeat
from resnet_jax.studies.study import Outcome
from resnet_jax.terminal import Reporter
from tests.end_to_end.program import start
from tests.faults.run_comparison import assert_equal_runs, saved_steps, wait_for

RECIPE = "--config=tests/studies/tiny_recipe.py"


def run_main(*arguments, **environment):
    """Run main.py, whose recipe knows the tiny model, without TensorBoard."""
    process = start(*arguments, program="main.py", **environment)
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def write_result(sub_run, top1, tta=None):
    metrics = {"top1": top1, "loss": 1 - top1, "top5": 1.0, "examples": 100, "unreadable": 0}
    result = {"validation": metrics, "test": None, "test_tta": tta and {tta: metrics}, "seconds": 2.0}
    path = sub_run.directory.path
    path.mkdir(parents=True)
    (path / "result.json").write_text(json.dumps(result))


def test_means_are_over_the_finished_runs(tmp_path, recipe):
    _, runs = repeat.open_seeds(str(tmp_path), recipe, (0,))
    write_result(runs[0], 0.8, tta="flip")
    summary = repeat.summarize(runs, ["seed1"], Reporter(active=False))
    assert summary.spreads["validation"]["top1"].mean == 0.8
    assert summary.spreads["test, flip"]["loss"].mean == pytest.approx(0.2)
    assert summary.comparison is None
    text = repeat.format_summary(summary)
    assert "Not finished: seed1" in text and "80.00 %" in text


def test_folds_need_a_recipe_without_a_validation_split_of_its_own(tmp_path, recipe):
    recipe = recipe.changed({"dataset.validation_split": "train[400:]"})
    with pytest.raises(UserError, match=r"dataset\.validation_split is 'train\[400:\]'"):
        repeat.open_folds(str(tmp_path), recipe, 3)


def test_folds_are_scored_only_at_the_end_and_not_tested(tmp_path, recipe):
    _, runs = repeat.open_folds(str(tmp_path), recipe, 3)
    for number, fold in enumerate(runs, start=1):
        config = fold.recipe.config
        assert config.dataset.validation_split == f"fold:{number}/3"
        assert config.dataset.test_split == "none"
        assert config.evaluate_every_epochs == config.num_epochs


def test_all_failed_runs_are_an_error(tmp_path, recipe, fake_program):
    study, runs = repeat.open_seeds(str(tmp_path), recipe, (13,))
    with pytest.raises(UserError, match="no run has finished"):
        repeat.train_and_summarize(study, runs, 1, Reporter(active=False))
    assert study.outcomes == {"seed13": Outcome.FAILED}


@pytest.mark.slow
def test_folds_predict_every_training_example_once(tmp_path):
    finished = run_main("repeat", RECIPE, "--folds=2", f"--workdir={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    with (tmp_path / "out_of_fold.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["example"][6:-1]) for row in rows) == list(range(400))  # train[0] to train[399]
    assert {row["run"] for row in rows} == {"fold1", "fold2"}
    probabilities = np.array([[float(row[f"p({digit})"]) for digit in range(10)] for row in rows])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    summary = json.loads((tmp_path / "summary.json").read_text())
    correct = np.mean([row["label"] == row["prediction"] for row in rows])
    assert correct == pytest.approx(summary["means"]["validation"]["top1"]["mean"])


@pytest.mark.slow
def test_repeat_killed_in_the_second_seed_gives_the_same_table(tmp_path):
    """The study and the run are killed without warning, as by a power cut."""
    arguments = ("repeat", RECIPE, "--seeds=0:3", "--format=json")
    uninterrupted = run_main(*arguments, f"--workdir={tmp_path}/whole")
    process = start(*arguments, f"--workdir={tmp_path}/killed", program="main.py")
    wait_for(lambda: saved_steps(tmp_path / "killed" / "seed1"), process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "seed1" / "result.json").exists()
    resumed = run_main(*arguments, f"--workdir={tmp_path}/killed")
    assert resumed.returncode == 0, resumed.stderr
    assert table(resumed.stdout) == table(uninterrupted.stdout)
    assert [run["name"] for run in table(resumed.stdout)["runs"]] == [f"seed{seed}" for seed in range(3)]
    for seed in range(3):
        assert_equal_runs(tmp_path / "killed" / f"seed{seed}", tmp_path / "whole" / f"seed{seed}")


@pytest.mark.slow
def test_two_jobs_on_two_devices_train_the_same_runs_as_one_device(tmp_path):
    """Each job has one of two simulated devices."""
    for jobs in (1, 2):
        devices = f"--xla_force_host_platform_device_count={jobs}"
        arguments = ("repeat", RECIPE, "--seeds=0:2", f"--jobs={jobs}", f"--workdir={tmp_path}/{jobs}")
        finished = run_main(*arguments, XLA_FLAGS=devices)
        assert finished.returncode == 0, finished.stderr
    for seed in (0, 1):
        assert_equal_runs(tmp_path / "1" / f"seed{seed}", tmp_path / "2" / f"seed{seed}")


def table(stdout):
    """Return the JSON that `repeat` prints, without what differs between equal runs: the place and the time."""
    values = json.loads(stdout.splitlines()[-1])
    del values["study"]
    return {**values, "runs": [{**run, "seconds": None} for run in values["runs"]]}


def test_runs_without_test_split_are_compared_on_their_own_validation_examples(tmp_path, recipe, monkeypatch):
    """The dataset may have a split called "validation" on which they were not validated."""
    _, runs = repeat.open_seeds(str(tmp_path), recipe, (0, 1, 2))
    for run, top1 in zip(runs, (0.5, 0.7, 0.6), strict=True):
        run.directory.path.mkdir(parents=True)
        validation = {"top1": top1, "loss": 1.0, "examples": 10, "unreadable": 0}
        result = {"validation": validation, "test": None, "test_tta": None, "seconds": 2.0}
        (run.directory.path / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr(repeat, "load_run", lambda workdir: pathlib.Path(workdir).name)
    monkeypatch.setattr(repeat, "score_own_validation", lambda name, reporter: (name, None, None))
    monkeypatch.setattr(repeat, "mcnemar", lambda best, worst: McNemar(best, worst, 1.0))
    summary = repeat.summarize(runs, [], Reporter(active=False))
    assert (summary.split, summary.best, summary.worst) == ("validation", "seed1", "seed0")
    assert summary.comparison == McNemar("seed1", "seed0", 1.0)


def test_folds_of_pretraining_need_no_predictions(tmp_path, recipe, fake_program, monkeypatch):
    """The models have no head."""
    monkeypatch.setattr(repeat.out_of_fold, "predict_held_out", lambda *_: pytest.fail("predicts classes"))
    study, runs = repeat.open_folds(str(tmp_path), recipe.changed({"pretrain.method": "simclr"}), 2)
    monkeypatch.setattr(repeat, "primary_metric", lambda metrics: ("knn", "kNN"))
    assert len(repeat.train_and_summarize(study, runs, 1, Reporter(active=False)).results) == 2


def test_pretrained_runs_are_summarized_by_nearest_neighbors(tmp_path, recipe):
    _, runs = repeat.open_seeds(str(tmp_path), recipe, (0, 1))
    for number, run in enumerate(runs):
        run.directory.path.mkdir(parents=True)
        validation = {"knn": 0.5 + 0.1 * number, "examples": 100, "unreadable": 0}
        result = {"validation": validation, "test": None, "test_tta": None, "seconds": 2.0}
        (run.directory.path / "result.json").write_text(json.dumps(result))
    summary = repeat.summarize(runs, [], Reporter(active=False))
    assert summary.spreads["validation"].keys() == {"knn"}
    assert summary.comparison is None
    text = repeat.format_summary(summary)
    assert "validation kNN top-1" in text
    assert "loss" not in text
