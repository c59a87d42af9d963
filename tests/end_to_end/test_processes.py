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

from tests.end_to_end.program import ROOT, SHORT_DIGITS

BY_STEP = (*SHORT_DIGITS, "--config.log_every_steps=1")


def start(number, *arguments, program="main.py", each=lambda process: (), **environment):
    """Starts processes of one run; `each` gives arguments to one of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), **environment}
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


def end(processes):
    """Exit codes, and what the processes printed and complained of."""
    outputs = [process.communicate(timeout=600) for process in processes]
    return [process.returncode for process in processes], *zip(*outputs, strict=True)


def train(number, workdir, epochs, *arguments):
    """Trains to the end; returns what each process printed."""
    codes, outputs, complaints = end(
        start(number, *BY_STEP, f"--config.num_epochs={epochs}", f"--workdir={workdir}", *arguments)
    )
    assert codes == [0] * number, complaints
    return outputs


def losses(workdir):
    """By step, as they were logged: each of them once."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == list(range(1, len(steps) + 1))
    return [line["train/loss"] for line in lines if "train/loss" in line]


def copy(workdir, name):
    return shutil.copytree(workdir, workdir.parent / name)


@pytest.mark.slow
def test_any_number_of_processes_is_the_same_run(tmp_path):
    """Of the same weights, the first steps have the losses of a single process; later they drift apart by rounding.

    Two processes save by the clock, amid the epoch too.
    """
    by_clock = ("--config.checkpoint.every_minutes=0.001", "--config.checkpoint.keep=50")
    main_output, other_output = train(2, tmp_path / "two", 1, *by_clock)
    train(1, tmp_path / "one", 1)
    assert "Checkpoint of step" in main_output
    assert "epoch" not in other_output
    assert len(list((tmp_path / "two" / "checkpoints").iterdir())) > 1
    assert len(list((tmp_path / "two").glob("events*"))) == 1
    epoch = len(losses(tmp_path / "one"))
    np.testing.assert_allclose(losses(tmp_path / "two")[:3], losses(tmp_path / "one")[:3], rtol=1e-5)
    assert len(losses(tmp_path / "two")) == epoch
    assert json.loads((tmp_path / "two" / "result.json").read_text())["test"]["examples"] == 359

    copy(tmp_path / "two", "two_one"), copy(tmp_path / "one", "one_four")
    train(1, tmp_path / "two_one", 2)
    train(2, tmp_path / "two", 2)
    next_steps = slice(epoch, epoch + 3)
    np.testing.assert_allclose(
        losses(tmp_path / "two_one")[next_steps], losses(tmp_path / "two")[next_steps], rtol=1e-5
    )
    train(4, tmp_path / "one_four", 2)
    train(1, tmp_path / "one", 2)
    np.testing.assert_allclose(
        losses(tmp_path / "one_four")[next_steps], losses(tmp_path / "one")[next_steps], rtol=1e-5
    )

    copy(tmp_path / "one_four", "four_two")
    train(2, tmp_path / "four_two", 3)
    train(1, tmp_path / "one_four", 3)
    next_steps = slice(2 * epoch, 2 * epoch + 3)
    np.testing.assert_allclose(
        losses(tmp_path / "four_two")[next_steps], losses(tmp_path / "one_four")[next_steps], rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on(tmp_path, victim):
    """Its sockets are closed, so the others know at once; of process 0 it may be JAX that notices first."""
    divisible = ("--config.batch_size=66", "--config.dataset.train_split=train[:300]", "--config.num_epochs=8")
    arguments = (*BY_STEP, *divisible, f"--workdir={tmp_path}")
    processes = start(3, *arguments)
    while not any(path.name.isdecimal() for path in (tmp_path / "checkpoints").glob("*")):
        assert all(process.poll() is None for process in processes), end(processes)
        time.sleep(0.02)
    processes[victim].kill()
    codes, _, complaints = end(processes)
    assert codes[victim] == -signal.SIGKILL
    for process in {0, 1, 2} - {victim}:
        if victim == 0 and codes[process] == -signal.SIGABRT:
            assert "This most likely indicates that another task died" in complaints[process]
            continue
        assert codes[process] == 75, complaints[process]
        assert "Traceback" not in complaints[process]
        assert "error: another process of this run has ended (" in complaints[process]
        assert "the same command, in all processes, goes on from the last checkpoint" in complaints[process]
    codes, outputs, complaints = end(start(2 if victim else 1, *arguments))
    assert set(codes) == {0}, complaints
    assert re.search("Resuming from step [1-9]", outputs[0])
    losses(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["test"]["examples"] == 359


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
