"""Processes that are killed without warning, as by a power cut or for want of memory."""

import random
import signal
import time

import pytest

from tests.end_to_end.program import WITHOUT_TENSORFLOW, run, start
from tests.faults.run_comparison import LONG_DIGITS, assert_equal_runs, saved_steps, wait_for

KILLS = 10
LONGER_DIGITS = (*LONG_DIGITS, "--config.num_epochs=60")
STARTING = (4, 9)


def test_a_killed_run_goes_on_to_the_same_parameters_bit_for_bit(tmp_path, uninterrupted):
    workdir = tmp_path / "killed"
    process = start(*LONG_DIGITS, f"--workdir={workdir}")
    wait_for(lambda: 16 in saved_steps(workdir), process)  # Of 128 steps.
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (workdir / "result.json").exists()
    resumed = run(*LONG_DIGITS, f"--workdir={workdir}")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from step " in resumed.stdout
    assert_equal_runs(workdir, uninterrupted)


@pytest.mark.slow
def test_a_run_that_is_killed_at_ten_random_moments_loses_nothing(tmp_path):
    """Four of them amid a save, two while the run starts; what a save leaves unfinished is passed over and removed.

    Without TensorBoard, whose files are compared in the test before.
    """
    uninterrupted = tmp_path / "uninterrupted"
    assert run(*LONGER_DIGITS, f"--workdir={uninterrupted}", **WITHOUT_TENSORFLOW).returncode == 0
    seed = random.randrange(2**32)
    print(f"Moments of the seed {seed}")
    moments, workdir, unfinished = random.Random(seed), tmp_path / "killed", 0
    for kill in range(KILLS):
        before = saved_steps(workdir)
        if kill in STARTING:
            (workdir / ".lock").unlink()  # That of the dead process: a new one tells that the next has come so far.
        process = start(*LONGER_DIGITS, f"--workdir={workdir}", **WITHOUT_TENSORFLOW)
        if kill in STARTING:
            wait_for((workdir / ".lock").exists, process)
            time.sleep(moments.uniform(0, 0.5))
        else:
            wait_for(lambda before=before: saved_steps(workdir) != before, process)
            time.sleep(moments.uniform(0, 0.1))
            if kill % 2:
                wait_for(lambda: any(workdir.glob("checkpoints/*tmp*")), process)
        process.send_signal(signal.SIGKILL)
        stdout, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
        assert not before or kill in STARTING or f"Resuming from step {before[-1]:,} of" in stdout
        unfinished += any(workdir.glob("checkpoints/*tmp*"))
    assert unfinished
    resumed = run(*LONGER_DIGITS, f"--workdir={workdir}", **WITHOUT_TENSORFLOW)
    assert resumed.returncode == 0, resumed.stderr
    assert not list(workdir.glob("checkpoints/*tmp*"))
    assert_equal_runs(workdir, uninterrupted, with_events=False)
