"""Processes that are asked to stop: by Ctrl-C, by SIGTERM before a preemption, or because their terminal is closed."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from tests.end_to_end.program import ROOT, TINY_PROGRAM, WITH_TENSORFLOW, WITHOUT_TENSORFLOW, run, start
from tests.faults.run_comparison import LONG_DIGITS, assert_equal_runs, saved_steps, untimed_records, wait_for

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}


def stop(process, signum):
    """Send the signal, wait until the process has ended, check its exit code and messages, and return its stdout."""
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == EXIT_CODES[signum], stderr
    assert stderr == ""
    assert "Run the same command again to resume" in stdout
    return stdout


def start_evaluating(workdir, **environment):
    """Start a run and wait until it is in its first evaluation, which takes five seconds."""
    process = start(*LONG_DIGITS, f"--workdir={workdir}", program="tests/faults/slow_evaluation.py", **environment)
    wait_for((workdir / "evaluating").exists, process)
    (workdir / "evaluating").unlink()
    return process


def assert_resumes(workdir, uninterrupted, **environment):
    assert not (workdir / "result.json").exists()
    resumed = run(*LONG_DIGITS, f"--workdir={workdir}", **environment)
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_runs(workdir, uninterrupted, with_events=bool(environment))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "environment"),
    [(signal.SIGTERM, WITH_TENSORFLOW), (signal.SIGINT, {})],
    ids=["SIGTERM with TensorBoard", "SIGINT"],
)
def test_stop_between_steps_saves_and_resumes_to_the_same_parameters(tmp_path, uninterrupted, signum, environment):
    workdir = tmp_path / "stopped"
    process = start(*LONG_DIGITS, f"--workdir={workdir}", **environment)
    wait_for((workdir / "metrics.jsonl").exists, process)  # The first metrics have been logged.
    stdout = stop(process, signum)
    assert "Stopping as soon as everything is saved" in stdout
    assert "Checkpoint of step" in stdout
    assert str(workdir) in stdout
    assert_resumes(workdir, uninterrupted, **environment)


@pytest.mark.slow
def test_closed_terminal_stops_the_run_which_saves_and_resumes_to_the_same_parameters(tmp_path, uninterrupted):
    """The terminal sends SIGHUP. From then on, every write to it fails."""
    workdir = tmp_path / "stopped"
    terminal, end_of_program = pty.openpty()
    os.set_blocking(terminal, False)
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, TINY_PROGRAM, *LONG_DIGITS, f"--workdir={workdir}"],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "", **WITHOUT_TENSORFLOW},
        stdin=end_of_program,
        stdout=end_of_program,
        stderr=end_of_program,
    )
    os.close(end_of_program)
    output = b""

    def has_logged():
        nonlocal output
        with contextlib.suppress(BlockingIOError):
            output += os.read(terminal, 10_000)
        return (workdir / "metrics.jsonl").exists()

    wait_for(has_logged, process)
    os.close(terminal)
    assert process.wait(timeout=120) == 75, output
    assert saved_steps(workdir)
    assert_resumes(workdir, uninterrupted)


@pytest.mark.slow
def test_stop_during_an_evaluation_saves_and_the_resumed_run_repeats_the_evaluation(tmp_path, uninterrupted):
    workdir = tmp_path / "stopped"
    process = start_evaluating(workdir)
    stop(process, signal.SIGTERM)
    assert saved_steps(workdir) == [8]
    assert not any("validation/loss" in record for record in untimed_records(workdir))
    assert_resumes(workdir, uninterrupted)


@pytest.mark.slow
def test_stop_during_a_save_completes_the_checkpoint(tmp_path, uninterrupted):
    workdir = tmp_path / "stopped"
    process = start(*LONG_DIGITS, f"--workdir={workdir}")
    wait_for(lambda: any(workdir.glob("checkpoints/*tmp*")), process)
    stop(process, signal.SIGTERM)
    assert saved_steps(workdir)
    assert not list(workdir.glob("checkpoints/*tmp*"))
    assert_resumes(workdir, uninterrupted)


@pytest.mark.slow
def test_stop_before_the_first_step_saves_nothing_and_the_run_resumes(tmp_path, uninterrupted):
    workdir = tmp_path / "stopped"
    process = start(*LONG_DIGITS, f"--workdir={workdir}")
    wait_for((workdir / ".lock").exists, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (75, "")
    assert_resumes(workdir, uninterrupted)


@pytest.mark.slow
def test_second_ctrl_c_stops_without_saving_and_the_run_can_be_repeated(tmp_path, uninterrupted):
    """Both signals arrive in the first evaluation, before the first checkpoint. The next process starts at step 0."""
    workdir = tmp_path / "stopped"
    process = start_evaluating(workdir)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "Nothing was saved. Run the same command again to start from the first step." in stdout
    assert saved_steps(workdir) == []  # After a single Ctrl-C, the run would save step 8, the end of the first epoch.
    assert_resumes(workdir, uninterrupted)
