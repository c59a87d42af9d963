"""Runs of several processes, as on several machines: together they are one run."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.end_to_end.program import ROOT, SHORT_DIGITS, TINY_PROGRAM, WITHOUT_TENSORFLOW

# A batch that one to four processes can share, and a rate that does not depend on the number of epochs.
BY_STEP = (
    *SHORT_DIGITS,
    "--config.log_every_steps=1",
    "--config.batch_size=48",
    "--config.schedule.name=constant",
)
# To be interrupted: some seconds, of which most go into steps.
LONG = ("--config.num_epochs=8", "--config.evaluate_every_epochs=2", "--config.checkpoint.every_epochs=2")


def start(number, *arguments, program=TINY_PROGRAM, each=lambda process: (), **environment):
    """Starts processes of one run, without TensorBoard; `each` gives arguments to one of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": "", **WITHOUT_TENSORFLOW, **environment}
    together = (f"--coordinator={address}", f"--num_processes={number}") if number > 1 else ()
    return [
        subprocess.Popen(
            [
                *(sys.executable, program, *arguments, *each(process), *together),
                *([f"--process_id={process}"] if number > 1 else []),
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(number)
    ]


def end(processes, seconds=600):
    """Exit codes, and what the processes printed and complained of, within so many seconds."""
    outputs = [process.communicate(timeout=seconds) for process in processes]
    return [process.returncode for process in processes], *zip(*outputs, strict=True)


def train(number, workdir, epochs, *arguments, **environment):
    """Trains to the end; returns what each process printed."""
    arguments = (*BY_STEP, f"--config.num_epochs={epochs}", f"--workdir={workdir}", *arguments)
    codes, outputs, complaints = end(start(number, *arguments, **environment))
    assert codes == [0] * number, complaints
    return outputs


def losses(workdir):
    """By step, as they were logged: each of them once."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == list(range(1, len(steps) + 1))
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.slow
def test_any_number_of_processes_is_the_same_run(tmp_path):
    """Its first steps have the losses of a single process, also after a resume with another number of processes.

    Later they drift apart by rounding, faster where weights are trained and steps large: of a resumed run the first
    loss is the same, the next two are near. Another batch would change them in the first or second digit.
    """
    by_clock = ("--config.checkpoint.every_minutes=0.001", "--config.checkpoint.keep=50")
    outputs = {number: train(number, tmp_path / str(number), 1) for number in (1, 4)}
    outputs[2] = train(2, tmp_path / "2", 1, *by_clock, PYTHONPATH=str(ROOT))  # With TensorBoard.
    expected = losses(tmp_path / "1")
    for number in (2, 4):
        workdir, (main_output, *other_outputs) = tmp_path / str(number), outputs[number]
        assert "Checkpoint of step" in main_output
        assert "epoch" not in "".join(other_outputs)
        assert json.loads((workdir / "result.json").read_text())["test"]["examples"] == 359
        assert len(losses(workdir)) == len(expected)
        np.testing.assert_allclose(losses(workdir)[:3], expected[:3], rtol=1e-5)
    assert len(list((tmp_path / "2" / "checkpoints").iterdir())) > 1  # Saved by the clock, amid the epoch.
    assert len(list((tmp_path / "2").glob("events*"))) == 1
    resumed = {}
    for number in (1, 4):
        workdir = shutil.copytree(tmp_path / "2", tmp_path / f"2_and_{number}")
        train(number, workdir, 2)
        resumed[number] = losses(workdir)[len(expected) : len(expected) + 3]
    np.testing.assert_allclose(resumed[4][0], resumed[1][0], rtol=1e-5)
    np.testing.assert_allclose(resumed[4], resumed[1], rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on(tmp_path, victim):
    """Its sockets are closed, so the others mostly know at once; if it is JAX that notices first, it aborts them."""
    arguments = (*BY_STEP, *LONG, f"--workdir={tmp_path}")
    processes = start(3, *arguments)
    while not any(path.name.isdecimal() for path in (tmp_path / "checkpoints").glob("*")):
        assert all(process.poll() is None for process in processes), end(processes)
        time.sleep(0.02)
    processes[victim].kill()
    codes, _, complaints = end(processes, seconds=90)
    assert codes[victim] == -signal.SIGKILL
    for process in {0, 1, 2} - {victim}:
        if codes[process] == -signal.SIGABRT:
            assert "This most likely indicates that another task died" in complaints[process]
            continue
        assert codes[process] == 75, complaints[process]
        assert "Traceback" not in complaints[process]
        assert "error: another process of this run has ended (" in complaints[process]
        assert "Run the same command again in all processes to resume from the last checkpoint" in complaints[process]
    codes, outputs, complaints = end(start(2 if victim else 1, *arguments))
    assert set(codes) == {0}, complaints
    assert re.search("Resuming from step [1-9]", outputs[0])
    losses(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["test"]["examples"] == 359


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step_and_the_run_goes_on(tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(2, straight, 8, *LONG)
    processes = start(2, *BY_STEP, *LONG, f"--workdir={stopped}")
    while not (stopped / "metrics.jsonl").exists():
        assert all(process.poll() is None for process in processes), end(processes)
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs, complaints = end(processes)
    assert codes == [75, 75], complaints
    assert "".join(complaints).count("Traceback") == 0
    assert "the same command goes on from there" in outputs[0]
    assert not (stopped / "result.json").exists()
    train(2, stopped, 8, *LONG)
    assert losses(stopped) == losses(straight)


@pytest.mark.slow
def test_workdirs_that_are_not_the_same_are_refused(tmp_path):
    def own(process):
        return [f"--workdir={tmp_path / f'of_{process}'}"]

    codes, _, complaints = end(start(2, *BY_STEP, each=own))
    assert codes == [2, 2], complaints
    for text in complaints:
        assert "error: 1 of 2 processes do not see the workdir" in text
        assert "Traceback" not in text
    assert list((tmp_path / "of_0").iterdir()) == []


@pytest.mark.slow
def test_slurm_tells_processes_of_one_another(finished_run):
    """No flag does: JAX takes the port of the first from the number of the job."""
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
    codes, outputs, complaints = end(processes)
    assert codes == [0, 0], complaints
    scores = json.loads(outputs[0].splitlines()[-1])
    result = json.loads((finished_run / "result.json").read_text())
    assert (scores["top1"], scores["examples"]) == (result["test"]["top1"], result["test"]["examples"])
    assert scores["loss"] == pytest.approx(result["test"]["loss"], rel=1e-5)
    assert "{" not in outputs[1]
