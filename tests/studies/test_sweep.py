import dataclasses
import json
import os
import signal
import threading
import time

import pytest

from resnet_jax.errors import Preempted, UserError
from resnet_jax.studies import search_space
from resnet_jax.studies.processes import train_all
from resnet_jax.studies.study import Outcome, SubRun
from resnet_jax.studies.sweep import best_recipe, describe, format_results, sweep
from resnet_jax.terminal import Reporter
from tests.end_to_end.program import TINY_PROGRAM, start
from tests.faults.run_comparison import saved_steps, wait_for

GRID = search_space.parse(["optimizer.learning_rate=0.01,0.1,1", "seed=0,1"])
RANGE = search_space.parse(["optimizer.learning_rate=0.001..10:log", "seed=0,1"])


def run_sweep(path, recipe, space, num_trials=0, jobs=1):
    return sweep(str(path), recipe, space, num_trials, jobs, Reporter(active=False))


def read_summary(path):
    return json.loads((path / "summary.json").read_text())["runs"]


def run_and_stop(path, recipe, space, num_trials, last, jobs=1):
    """Run a sweep until the run `last` has begun, and stop it with SIGTERM."""

    def interrupt():
        deadline = time.monotonic() + 60
        while not (path / last / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        if (path / last / "metrics.jsonl").exists():
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Preempted):
        run_sweep(path, recipe, space, num_trials, jobs)
    thread.join()


def test_grid_is_sorted_by_validation(tmp_path, recipe, fake_program):
    results = run_sweep(tmp_path, recipe, GRID)
    assert [trial.name for trial in results.trials][:2] == ["learning_rate=0.1,seed=0", "learning_rate=0.1,seed=1"]
    top1 = [trial.validation["top1"] for trial in results.trials]
    assert top1 == sorted(top1, reverse=True)
    assert len(top1) == 6
    best = best_recipe(recipe, results)
    assert (best.config.optimizer.learning_rate, best.config.seed) == (0.1, 0)


def test_runs_are_sorted_by_the_metric_of_the_recipe(tmp_path, recipe, fake_program):
    results = run_sweep(tmp_path, recipe.changed({"checkpoint.best_metric": "loss"}), GRID)
    losses = [trial.validation["loss"] for trial in results.trials]
    assert losses == sorted(losses)


def test_sweep_does_not_read_the_test_split(tmp_path, recipe, fake_program):
    results = run_sweep(tmp_path, recipe, GRID)
    for trial in results.trials:
        assert json.loads((tmp_path / trial.name / "result.json").read_text())["test"] is None
    assert best_recipe(recipe, results).config.dataset.test_split == ""  # that of the recipe


def test_grid_with_more_values_keeps_the_finished_runs(tmp_path, recipe, fake_program):
    run_sweep(tmp_path, recipe, GRID)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    larger = search_space.parse(["optimizer.learning_rate=0.01,0.1,1,3", "seed=0,1"])
    assert len(run_sweep(tmp_path, recipe, larger).trials) == 8
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_failed_run_comes_last_and_is_counted(tmp_path, recipe, fake_program):
    results = run_sweep(tmp_path, recipe, search_space.parse(["seed=13,0"]))
    assert [trial.outcome for trial in results.trials] == [Outcome.FINISHED, Outcome.FAILED]
    assert "2 runs, 1 failed" in describe(results)
    assert "Not all runs are finished. Run the same command again to resume." in format_results(results)
    assert not results.is_complete


def test_diverged_run_is_a_result(tmp_path, recipe, fake_program):
    """It would diverge again, so `--then_repeat` does not wait for it."""
    (tmp_path / "seed=13" / "nan").mkdir(parents=True)
    results = run_sweep(tmp_path, recipe, search_space.parse(["seed=13,0"]))
    assert [trial.outcome for trial in results.trials] == [Outcome.FINISHED, Outcome.DIVERGED]
    assert "2 runs, 1 diverged" in describe(results)
    assert results.is_complete
    log = (tmp_path / "seed=13.log").read_text()
    assert run_sweep(tmp_path, recipe, search_space.parse(["seed=13,0"])).trials == results.trials
    assert (tmp_path / "seed=13.log").read_text() == log  # It was not started again.


def test_runs_without_validation_metrics_are_refused(tmp_path, recipe, fake_program, monkeypatch):
    """As with pre-training on images without labels."""
    monkeypatch.setattr(SubRun, "result", lambda run: {"validation": None, "test": None, "seconds": 1.0})
    with pytest.raises(UserError, match="seed=0 has no validation metrics, by which a sweep compares runs"):
        run_sweep(tmp_path, recipe, search_space.parse(["seed=0,1"]))


def test_equally_good_runs_keep_the_order_of_the_grid(tmp_path, recipe, fake_program, monkeypatch):
    """Even if they end in another order. The rates 0.01 and 1 have the same validation top-1."""
    space = search_space.parse(["optimizer.learning_rate=0.01,1"])
    monkeypatch.setattr("resnet_jax.studies.sweep.train_all", lambda *args: reversed(list(train_all(*args))))
    assert [trial.changes["optimizer.learning_rate"] for trial in run_sweep(tmp_path, recipe, space).trials] == [
        0.01,
        1,
    ]


def test_runs_with_several_labels_show_the_metric_by_which_they_are_sorted(tmp_path, recipe, fake_program):
    results = run_sweep(tmp_path, recipe, search_space.parse(["seed=0,1"]))
    trials = [dataclasses.replace(trial, validation={**trial.validation, "map": 0.123}) for trial in results.trials]
    assert "12.30%" not in format_results(dataclasses.replace(results, trials=tuple(trials)))
    assert "12.30%" in format_results(dataclasses.replace(results, trials=tuple(trials), metric="map"))


def test_two_jobs_give_the_same_table_as_one(tmp_path, recipe, fake_program, monkeypatch):
    monkeypatch.setattr("resnet_jax.studies.device_shares._find_devices", lambda: ("cpu", 1))
    for jobs in (1, 2):
        run_sweep(tmp_path / str(jobs), recipe, GRID, jobs=jobs)
    assert read_summary(tmp_path / "1") == read_summary(tmp_path / "2")


@pytest.mark.parametrize("space", [GRID, RANGE])
def test_stopped_sweep_continues_to_the_same_table(tmp_path, recipe, fake_program, monkeypatch, space):
    pytest.importorskip("optuna")
    run_sweep(tmp_path / "whole", recipe, space, num_trials=6)
    names = [trial["name"] for trial in json.loads((tmp_path / "whole" / "study.json").read_text())["runs"]]
    monkeypatch.setenv("FAKE_RUN_TO_STOP", names[3])
    run_and_stop(tmp_path / "stopped", recipe, space, 6, last=names[3])
    assert not (tmp_path / "stopped" / "summary.json").exists()
    monkeypatch.delenv("FAKE_RUN_TO_STOP")
    run_sweep(tmp_path / "stopped", recipe, space, num_trials=6)
    assert read_summary(tmp_path / "stopped") == read_summary(tmp_path / "whole")


def test_sweep_stopped_with_two_jobs_continues_to_the_same_table(tmp_path, recipe, fake_program, monkeypatch):
    monkeypatch.setattr("resnet_jax.studies.device_shares._find_devices", lambda: ("cpu", 1))
    run_sweep(tmp_path / "whole", recipe, GRID)
    monkeypatch.setenv("FAKE_RUN_TO_STOP", "learning_rate=0.1,seed=0")
    run_and_stop(tmp_path / "stopped", recipe, GRID, 0, last="learning_rate=0.1,seed=0", jobs=2)
    monkeypatch.delenv("FAKE_RUN_TO_STOP")
    run_sweep(tmp_path / "stopped", recipe, GRID, jobs=2)
    assert read_summary(tmp_path / "stopped") == read_summary(tmp_path / "whole")


class TestSearch:
    @pytest.fixture(autouse=True)
    def optuna(self):
        return pytest.importorskip("optuna")

    def test_search_finds_a_good_learning_rate(self, tmp_path, recipe, fake_program):
        """The best rate is 0.1, in a range of four orders of magnitude."""
        results = run_sweep(tmp_path, recipe, RANGE, num_trials=18)
        assert len(results.trials) == 18
        assert 0.05 < results.trials[0].changes["optimizer.learning_rate"] < 0.2

    def test_runs_worse_than_the_median_are_stopped(self, tmp_path, recipe, fake_program, monkeypatch):
        monkeypatch.setenv("FAKE_EPOCH_SECONDS", "0.1")
        results = run_sweep(tmp_path, recipe.changed({"num_epochs": 6}), RANGE, num_trials=12)
        pruned = [trial for trial in results.trials if trial.outcome == Outcome.PRUNED]
        assert pruned and all(not (tmp_path / trial.name / "result.json").exists() for trial in pruned)
        assert f"12 runs, {len(pruned)} pruned" in describe(results)
        assert "pruned" in format_results(results)
        study = json.loads((tmp_path / "study.json").read_text())
        again = run_sweep(tmp_path, recipe.changed({"num_epochs": 6}), RANGE, num_trials=12)
        assert json.loads((tmp_path / "study.json").read_text()) == study
        assert again.trials == results.trials

    def test_finished_run_stays_finished_in_another_order_of_judgements(
        self, tmp_path, recipe, fake_program, monkeypatch
    ):
        """With several jobs, later runs may have been unknown when a run was judged first."""
        before = run_sweep(tmp_path, recipe, RANGE, num_trials=2)
        monkeypatch.setattr("resnet_jax.studies.sweep._Search.prune", lambda self, run: True)
        after = run_sweep(tmp_path, recipe, RANGE, num_trials=2)
        assert [trial.outcome for trial in after.trials] == [Outcome.FINISHED] * 2
        assert [trial.validation for trial in after.trials] == [trial.validation for trial in before.trials]

    def test_search_with_tuples_is_resumed(self, tmp_path, recipe, fake_program):
        space = search_space.parse(["augment.randaugment=(),(2, 9)", "optimizer.learning_rate=0.01..1:log"])
        first = run_sweep(tmp_path, recipe, space, num_trials=3)
        again = run_sweep(tmp_path, recipe, space, num_trials=4)
        assert {trial.name: trial.changes for trial in again.trials}.items() >= {
            trial.name: trial.changes for trial in first.trials
        }.items()

    def test_another_search_space_is_refused(self, tmp_path, recipe, fake_program):
        run_sweep(tmp_path, recipe, RANGE, num_trials=1)
        from resnet_jax.errors import UserError

        with pytest.raises(UserError, match="holds another study"):
            run_sweep(tmp_path, recipe, search_space.parse(["optimizer.learning_rate=0.01..1:log"]), num_trials=2)


@pytest.mark.slow
def test_killed_sweep_with_two_jobs_gives_the_same_table_and_then_opens_the_test_split_once(tmp_path):
    """The study and its runs are killed without warning, as by a power cut."""
    settings = ("--config=tests/studies/tiny_recipe.py", "--config.seed=3", "--set=seed=0,1,2")
    arguments = ("sweep", *settings, "--jobs=2", "--then_repeat=1", "--format=json")
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    tables = {}
    for name in ("whole", "killed"):
        started = start(*arguments, f"--workdir={tmp_path / name}", program="main.py", **devices)
        if name == "killed":
            wait_for(lambda: saved_steps(tmp_path / "killed" / "seed=2"), started)
            started.kill()
            started.communicate()
            started = start(*arguments, f"--workdir={tmp_path / name}", program="main.py", **devices)
        stdout, stderr = started.communicate(timeout=600)
        assert started.returncode == 0, stderr
        values = json.loads(stdout.splitlines()[-1])
        tables[name] = [(run["name"], run["validation"]) for run in values["runs"]], values["repeat"]["means"]
    assert tables["killed"] == tables["whole"]
    assert len(tables["whole"][0]) == 3
    results = {path.parent: json.loads(path.read_text()) for path in (tmp_path / "whole").rglob("result.json")}
    tested = [str(run.relative_to(tmp_path / "whole")) for run, result in results.items() if result["test"]]
    assert tested == [f"best/{tables['whole'][0][0][0]}/seed3"]


@pytest.mark.slow
def test_evaluate_and_report_take_the_directory_of_a_study(tmp_path):
    study = f"--workdir={tmp_path}/study"
    commands = {
        "sweep": ("--config=tests/studies/tiny_recipe.py", "--set=seed=0,1"),
        "evaluate": ("--split=validation",),
        "report": ("--split=validation", f"--to={tmp_path}/report.html"),
    }
    for command, flags in commands.items():
        program = "main.py" if command == "sweep" else TINY_PROGRAM  # Only a recipe makes main.py know the tiny model.
        process = start(command, study, *flags, program=program)
        stdout, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
        shown = (tmp_path / "report.html").read_text() if command == "report" else stdout
        assert "seed=0" in shown
        assert "seed=1" in shown
