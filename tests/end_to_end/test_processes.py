"""Runs of several processes, as on several machines."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.end_to_end.program import (
    ROOT,
    SHORT_DIGITS,
    TINY_PROGRAM,
    WITH_TENSORFLOW,
    WITHOUT_TENSORFLOW,
    start_processes,
    wait_for_processes,
)

# A batch size that one to four processes can share, and a learning rate that does not depend on the number of epochs.
LOG_EVERY_STEP = (
    *SHORT_DIGITS,
    "--config.log_every_steps=1",
    "--config.batch_size=48",
    "--config.schedule.name=constant",
)
# Settings of a run to interrupt. It takes some seconds, most of them for its steps.
LONG = ("--config.num_epochs=2", "--config.evaluate_every_epochs=1", "--config.checkpoint.every_epochs=1")


def train(num_processes, workdir, epochs, *arguments, **environment):
    """Train to the end, and return the stdout of each process."""
    arguments = (*LOG_EVERY_STEP, f"--config.num_epochs={epochs}", f"--workdir={workdir}", *arguments)
    codes, stdout, stderr = wait_for_processes(start_processes(num_processes, *arguments, **environment))
    assert codes == [0] * num_processes, stderr
    return stdout


def losses(workdir):
    """Check that each step was logged once, in order, and return the losses."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == list(range(1, len(steps) + 1))
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.slow
def test_losses_do_not_depend_on_the_number_of_processes(tmp_path):
    """The first losses equal those of a single process (to 1e-5), also after resuming with other numbers of processes.

    Later losses drift apart by rounding, and faster if the weights are already trained and the updates are large. So
    only the first loss after resuming is equal, and the next two are close (to 2e-3). A different batch would change
    the first or second digit.
    """
    save_often = ("--config.checkpoint.every_minutes=0.001", "--config.checkpoint.keep=50")
    workdir = tmp_path / "2"
    train(1, tmp_path / "1", 1)
    main_stdout, *other_stdout = train(2, workdir, 1, *save_often, **WITH_TENSORFLOW)
    expected = losses(tmp_path / "1")
    assert "Checkpoint of step" in main_stdout
    assert "epoch" not in "".join(other_stdout)
    assert json.loads((workdir / "result.json").read_text())["test"]["examples"] == 359
    assert len(losses(workdir)) == len(expected)
    np.testing.assert_allclose(losses(workdir)[:3], expected[:3], rtol=1e-5)
    assert len(list((workdir / "checkpoints").iterdir())) > 1  # Some were saved within the epoch.
    assert len(list(workdir.glob("events*"))) == 1
    resumed = {}
    for count in (1, 4):
        copy = shutil.copytree(workdir, tmp_path / f"2_and_{count}")
        train(count, copy, 2)
        resumed[count] = losses(copy)[len(expected) : len(expected) + 3]
    np.testing.assert_allclose(resumed[4][0], resumed[1][0], rtol=1e-5)
    np.testing.assert_allclose(resumed[4], resumed[1], rtol=2e-3)


@pytest.mark.slow
def test_killed_process_ends_the_others_and_the_run_resumes(tmp_path):
    """The sockets of a killed process are closed, so the others usually notice at once.

    If JAX, or Gloo in another thread, notices first, it aborts the other processes.
    """
    arguments = (*LOG_EVERY_STEP, *LONG, f"--workdir={tmp_path}")
    processes = start_processes(3, *arguments)
    while not any(path.name.isdecimal() for path in (tmp_path / "checkpoints").glob("*")):
        assert all(process.poll() is None for process in processes), wait_for_processes(processes)
        time.sleep(0.02)
    processes[0].kill()
    codes, _, stderr = wait_for_processes(processes, seconds=90)
    assert codes[0] == -signal.SIGKILL
    for process in (1, 2):
        if codes[process] == -signal.SIGABRT:
            assert re.search("This most likely indicates that another task died|gloo::EnforceNotMet", stderr[process])
            continue
        assert codes[process] == 75, stderr[process]
        assert "Traceback" not in stderr[process]
        assert "error: another process of this run has ended (" in stderr[process]
        assert "Run the same command again in all processes to resume from the last checkpoint" in stderr[process]
    codes, stdout, stderr = wait_for_processes(start_processes(2, *arguments))
    assert set(codes) == {0}, stderr
    assert re.search("Resuming from step [1-9]", stdout[0])
    losses(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["test"]["examples"] == 359


def child_of(process):
    """Return the number of the only child of a process."""
    deadline = time.monotonic() + 60
    while True:
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                name_and_rest = stat.read_text().rpartition(")")
                if int(name_and_rest[2].split()[1]) == process.pid:
                    return int(stat.parent.name)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_killed_processes_are_restarted_twice_and_the_losses_are_those_of_an_undisturbed_run(tmp_path):
    save_often = ("--config.checkpoint.every_minutes=0.001", "--config.num_epochs=4")
    # A recipe that knows the tiny model, because `--restarts` starts the program itself.
    arguments = ("--config=tests/studies/tiny_recipe.py", *LOG_EVERY_STEP[1:], *LONG, *save_often)
    undisturbed = start_processes(2, *arguments, f"--workdir={tmp_path / 'undisturbed'}", program="main.py")
    codes, _, stderr = wait_for_processes(undisturbed)
    assert codes == [0, 0], stderr
    workdir = tmp_path / "disturbed"
    processes = start_processes(2, *arguments, f"--workdir={workdir}", "--restarts=2", program="main.py")

    def newest_checkpoint():
        return max((int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()), default=0)

    for victim in (1, 0):
        before = newest_checkpoint()
        while newest_checkpoint() < before + 3:
            assert all(process.poll() is None for process in processes), wait_for_processes(processes)
            time.sleep(0.02)
        killed = child_of(processes[victim])
        os.kill(killed, signal.SIGKILL)
        while child_of(processes[victim]) == killed:
            time.sleep(0.05)
    codes, _, stderr = wait_for_processes(processes)
    assert codes == [0, 0], stderr
    assert "Restart 2 of 2" in stderr[0]
    goodput = json.loads((workdir / "result.json").read_text())["goodput"]
    assert sum(goodput.values()) == pytest.approx(1)
    assert goodput["other"] > 0.05  # The run was started twice more.
    expected = losses(tmp_path / "undisturbed")
    np.testing.assert_allclose(losses(workdir), expected, rtol=1e-4)


@pytest.mark.slow
def test_signal_to_one_process_stops_all_at_the_same_step_and_the_run_resumes(tmp_path):
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    train(2, uninterrupted, 2, *LONG)
    processes = start_processes(2, *LOG_EVERY_STEP, *LONG, f"--workdir={stopped}")
    while not (stopped / "metrics.jsonl").exists():
        assert all(process.poll() is None for process in processes), wait_for_processes(processes)
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    codes, stdout, stderr = wait_for_processes(processes)
    assert codes == [75, 75], stderr
    assert "".join(stderr).count("Traceback") == 0
    assert "Run the same command again to resume" in stdout[0]
    assert not (stopped / "result.json").exists()
    train(2, stopped, 2, *LONG)
    assert losses(stopped) == losses(uninterrupted)


@pytest.mark.slow
def test_processes_with_different_workdirs_are_refused(tmp_path):
    def own_workdir(process):
        return [f"--workdir={tmp_path / f'of_{process}'}"]

    codes, _, stderr = wait_for_processes(start_processes(2, *LOG_EVERY_STEP, arguments_of=own_workdir))
    assert codes == [2, 2], stderr
    for text in stderr:
        assert "error: 1 of 2 processes cannot see the workdir" in text
        assert "Traceback" not in text
    assert list((tmp_path / "of_0").iterdir()) == []


@pytest.mark.slow
def test_processes_of_a_slurm_job_find_one_another_without_flags(finished_run):
    """JAX derives the port of the first process from the id of the job."""
    job = {"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    job["SLURM_JOB_ID"] = str(os.getpid())
    command = [sys.executable, TINY_PROGRAM, "evaluate", f"--workdir={finished_run}", "--format=json"]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={
                **os.environ,
                "XLA_FLAGS": "",
                **WITHOUT_TENSORFLOW,
                **job,
                "SLURM_PROCID": rank,
                "SLURM_LOCALID": rank,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    codes, stdout, stderr = wait_for_processes(processes)
    assert codes == [0, 0], stderr
    scores = json.loads(stdout[0].splitlines()[-1])
    result = json.loads((finished_run / "result.json").read_text())
    assert (scores["top1"], scores["examples"]) == (result["test"]["top1"], result["test"]["examples"])
    assert scores["loss"] == pytest.approx(result["test"]["loss"], rel=1e-5)
    assert "{" not in stdout[1]
