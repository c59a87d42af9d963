import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from resnet_jax.errors import Preempted, UserError
from resnet_jax.studies.processes import train_all
from resnet_jax.studies.study import Outcome, Study
from resnet_jax.terminal import Reporter


def seed_runs(path, recipe, seeds):
    study = Study(str(path), "seeds", recipe)
    return [study.add(f"seed{seed}", {"seed": seed}) for seed in seeds]


def outcomes(runs, jobs=1, reporter=None, **options):
    return {run.name: outcome for run, outcome in train_all(runs, jobs, reporter or Reporter(active=False), **options)}


def test_failed_run_does_not_stop_the_others(tmp_path, recipe, fake_program):
    output = io.StringIO()
    ended = outcomes(seed_runs(tmp_path, recipe, (0, 13, 2)), reporter=Reporter(stream=output))
    assert ended == {"seed0": Outcome.FINISHED, "seed13": Outcome.FAILED, "seed2": Outcome.FINISHED}
    expected = "seed13: failed. error: this seed brings bad luck. Choose another. All output is in"
    assert expected in output.getvalue()
    assert "bad luck" in (tmp_path / "seed13.log").read_text()


def test_finished_runs_are_not_started_again(tmp_path, recipe, fake_program):
    outcomes(seed_runs(tmp_path, recipe, (0,)))
    before = (tmp_path / "seed0" / "result.json").stat().st_mtime_ns
    output = io.StringIO()
    again = outcomes(seed_runs(tmp_path, recipe, (0,)), reporter=Reporter(stream=output))
    assert again == {"seed0": Outcome.FINISHED}
    assert (tmp_path / "seed0" / "result.json").stat().st_mtime_ns == before
    assert output.getvalue() == ""


def test_finished_run_with_more_epochs_is_trained_further(tmp_path, recipe, fake_program):
    outcomes(seed_runs(tmp_path, recipe, (0,)))
    longer = recipe.changed({"num_epochs": 5})
    assert outcomes(seed_runs(tmp_path, longer, (0,))) == {"seed0": Outcome.FINISHED}
    assert len((tmp_path / "seed0" / "metrics.jsonl").read_text().splitlines()) == 5


def test_runs_start_in_any_working_directory(tmp_path, recipe, fake_program, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.chdir(tmp_path)
    assert outcomes(seed_runs(tmp_path, recipe, (0,))) == {"seed0": Outcome.FINISHED}


def test_error_in_the_study_lets_running_jobs_save(tmp_path, recipe, fake_program, monkeypatch):
    monkeypatch.setenv("FAKE_EPOCH_SECONDS", "0.3")
    monkeypatch.setattr("resnet_jax.studies.device_shares._find_devices", lambda: ("cpu", 1))
    (run,) = seed_runs(tmp_path, recipe.changed({"num_epochs": 100}), (0,))

    def runs():
        yield run
        while not (tmp_path / "seed0" / "metrics.jsonl").exists():
            time.sleep(0.1)
        raise UserError("the second run cannot be started")

    with pytest.raises(UserError, match="cannot be started"):
        outcomes(runs(), jobs=2)
    assert (tmp_path / "seed0" / "stopped").exists()


def test_directory_with_a_run_of_other_settings_is_refused(tmp_path, recipe, fake_program):
    outcomes(seed_runs(tmp_path, recipe, (0,)))
    other = recipe.changed({"optimizer.learning_rate": 0.3})
    with pytest.raises(UserError, match=r"seed0: .*optimizer\.learning_rate \(stored 0\.1, now 0\.3\)"):
        outcomes(seed_runs(tmp_path, other, (0,)))


def test_jobs_run_at_the_same_time(tmp_path, recipe, fake_program, monkeypatch):
    """The second run starts before the first has ended."""
    monkeypatch.setenv("FAKE_EPOCH_SECONDS", "0.5")
    monkeypatch.setattr("resnet_jax.studies.device_shares._find_devices", lambda: ("cpu", 1))
    output = io.StringIO()
    outcomes(seed_runs(tmp_path, recipe, (0, 1)), jobs=2, reporter=Reporter(stream=output))
    first, second, *_ = output.getvalue().splitlines()
    assert first.endswith("seed0") and second.endswith("seed1")  # the command lines of both


@pytest.mark.parametrize(("signum", "exception"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Preempted)])
def test_signal_stops_the_run_and_the_study(tmp_path, recipe, fake_program, monkeypatch, signum, exception):
    monkeypatch.setenv("FAKE_EPOCH_SECONDS", "0.3")
    runs = seed_runs(tmp_path, recipe.changed({"num_epochs": 100}), (0, 1))

    def interrupt():
        while not (tmp_path / "seed0" / "metrics.jsonl").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signum)

    threading.Thread(target=interrupt).start()
    ended, output = {}, io.StringIO()
    with pytest.raises(exception):
        for run, outcome in train_all(runs, 1, Reporter(stream=output)):
            ended[run.name] = outcome
    assert output.getvalue().endswith("Stopped. Run the same command again to resume.\n")
    assert ended == {"seed0": Outcome.STOPPED}
    assert not (tmp_path / "seed1").exists()


def test_pruned_run_is_stopped_and_not_resumed(tmp_path, recipe, fake_program, monkeypatch):
    monkeypatch.setenv("FAKE_EPOCH_SECONDS", "0.3")
    study = Study(str(tmp_path), "search", recipe.changed({"num_epochs": 100}))
    run = study.add("trial1", {})
    assert outcomes([run], prune=lambda run: True) == {"trial1": Outcome.PRUNED}
    assert not (tmp_path / "trial1" / "result.json").exists()
    study.record("trial1", Outcome.PRUNED)
    assert outcomes([study.add("trial1", {})]) == {"trial1": Outcome.PRUNED}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone signals the death of a parent")
def test_run_ends_when_its_study_is_killed(tmp_path):
    """Otherwise the run would hold the lock of its directory when the study is started again."""
    child = "import time; print('ready', flush=True); time.sleep(60)"
    (tmp_path / "child.py").write_text(child)
    parent = (
        f"import sys, time; sys.argv[0] = '{tmp_path}/child.py'; from resnet_jax.runtime import child_process; "
        "process = child_process.start([], {}); print(process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        assert process.stdout.readline() == "ready\n"
        process.kill()
    deadline = time.monotonic() + 30
    while _is_running(pid):
        assert time.monotonic() < deadline, "the child has not ended"
        time.sleep(0.1)


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False
