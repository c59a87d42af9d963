"""Processes that are killed without warning, as by a power cut or when memory runs out."""

import random
import signal
import time

import pytest

from tests.end_to_end.program import run, start
from tests.faults.run_comparison import LONG_DIGITS, assert_equal_runs, saved_steps, wait_for

KILLS = 6
LONGER_DIGITS = (*LONG_DIGITS, "--config.num_epochs=40")
KILLS_AT_START = (2, 4)  # numbers of the kills that hit a run while it starts


@pytest.mark.slow
def test_run_killed_at_six_random_moments_resumes_to_bit_identical_parameters(tmp_path):
    """Three kills hit a save, and two hit the start of the run. Unfinished checkpoints are ignored and removed.

    These runs write no event files for TensorBoard. `test_signals` compares event files.
    """
    uninterrupted = tmp_path / "uninterrupted"
    assert run(*LONGER_DIGITS, f"--workdir={uninterrupted}").returncode == 0
    generator = random.Random(0)
    workdir = tmp_path / "killed"
    num_unfinished = 0
    for kill in range(KILLS):
        steps_before = saved_steps(workdir)
        if kill in KILLS_AT_START:
            # The killed process left its lock file. A new lock file will show that the next process has started.
            (workdir / ".lock").unlink()
        process = start(*LONGER_DIGITS, f"--workdir={workdir}")
        if kill in KILLS_AT_START:
            wait_for((workdir / ".lock").exists, process)
            time.sleep(generator.uniform(0, 0.5))
        else:
            wait_for(lambda steps_before=steps_before: saved_steps(workdir) != steps_before, process)
            time.sleep(generator.uniform(0, 0.1))
            if kill % 2:
                wait_for(lambda: any(workdir.glob("checkpoints/*tmp*")), process)
        process.send_signal(signal.SIGKILL)
        stdout, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
        if steps_before and kill not in KILLS_AT_START:
            assert f"Resuming from step {steps_before[-1]:,} of" in stdout
        num_unfinished += any(workdir.glob("checkpoints/*tmp*"))
    assert num_unfinished
    resumed = run(*LONGER_DIGITS, f"--workdir={workdir}")
    assert resumed.returncode == 0, resumed.stderr
    assert not list(workdir.glob("checkpoints/*tmp*"))
    assert_equal_runs(workdir, uninterrupted)
