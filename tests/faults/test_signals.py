"""Processes that are asked to stop: by Ctrl-C, or by SIGTERM before the machine is taken away."""

import signal
import time

import pytest

from tests.end_to_end.program import WITHOUT_TENSORFLOW, run, start
from tests.faults.run_comparison import LONG_DIGITS, assert_equal_runs, saved_steps, untimed_records, wait_for

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}


def stop(process, signum):
    """Sends the signal; returns what the process has said when it has ended, which must be what is promised."""
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == EXIT_CODES[signum], stderr
    assert stderr == ""
    assert "the same command goes on from there" in stdout
    return stdout


def start_evaluating(workdir, **environment):
    """A run that has come to its first evaluation, which takes its time."""
    process = start(*LONG_DIGITS, f"--workdir={workdir}", program="tests/faults/slow_evaluation.py", **environment)
    wait_for((workdir / "evaluating").exists, process)
    (workdir / "evaluating").unlink()
    return process


def assert_goes_on(workdir, uninterrupted, **environment):
    assert not (workdir / "result.json").exists()
    resumed = run(*LONG_DIGITS, f"--workdir={workdir}", **environment)
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_runs(workdir, uninterrupted, with_events=not environment)


@pytest.mark.parametrize(
    ("signum", "environment"),
    [(signal.SIGTERM, {}), pytest.param(signal.SIGINT, WITHOUT_TENSORFLOW, marks=pytest.mark.slow)],
    ids=["SIGTERM", "SIGINT without TensorBoard"],
)
def test_a_stop_amid_the_steps_saves_sums_up_and_goes_on_to_the_same_parameters(
    tmp_path, uninterrupted, signum, environment
):
    workdir = tmp_path / "stopped"
    process = start(*LONG_DIGITS, f"--workdir={workdir}", **environment)
    wait_for((workdir / "metrics.jsonl").exists, process)  # The first report.
    stdout = stop(process, signum)
    assert "Stopping, once everything is saved" in stdout
    assert "Checkpoint of step" in stdout
    assert str(workdir) in stdout
    assert_goes_on(workdir, uninterrupted, **environment)


@pytest.mark.slow
def test_a_stop_amid_an_evaluation_does_not_wait_for_its_end(tmp_path, uninterrupted):
    """What is left of it is made up for by the run that goes on."""
    workdir = tmp_path / "stopped"
    process = start_evaluating(workdir)
    stop(process, signal.SIGTERM)
    assert saved_steps(workdir) == [8]
    assert not any("validation/loss" in record for record in untimed_records(workdir))
    assert_goes_on(workdir, uninterrupted)


@pytest.mark.slow
def test_a_stop_amid_a_save_waits_for_it(tmp_path, uninterrupted):
    workdir = tmp_path / "stopped"
    process = start(*LONG_DIGITS, f"--workdir={workdir}", **WITHOUT_TENSORFLOW)
    wait_for(lambda: any(workdir.glob("checkpoints/*tmp*")), process)
    stop(process, signal.SIGTERM)
    assert saved_steps(workdir)
    assert not list(workdir.glob("checkpoints/*tmp*"))
    assert_goes_on(workdir, uninterrupted, **WITHOUT_TENSORFLOW)


@pytest.mark.slow
def test_before_the_first_step_there_is_nothing_to_save(tmp_path, uninterrupted):
    workdir = tmp_path / "stopped"
    process = start(*LONG_DIGITS, f"--workdir={workdir}", **WITHOUT_TENSORFLOW)
    wait_for((workdir / ".lock").exists, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (75, "")
    assert_goes_on(workdir, uninterrupted, **WITHOUT_TENSORFLOW)


@pytest.mark.slow
def test_ctrl_c_twice_stops_at_once_and_the_run_goes_on_from_what_was_saved_before(tmp_path, uninterrupted):
    workdir = tmp_path / "stopped"
    process = start_evaluating(workdir, **WITHOUT_TENSORFLOW)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert saved_steps(workdir) == []  # After one Ctrl-C the end of the epoch would be saved.
    assert_goes_on(workdir, uninterrupted, **WITHOUT_TENSORFLOW)
