"""A run of two processes, as on a slice of two hosts: together they are one run."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.end_to_end.program import ROOT, SHORT_DIGITS, run

# The command line finds TPU pods and Slurm jobs; two processes on one machine are told of each other here.
PROGRAM = """
import sys, jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv.pop(1), 2, int(sys.argv.pop(1)))
jax.distributed.initialize = lambda: None
import runpy
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def run_two(*arguments, program="main.py", **environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), **environment}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(rank), program, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [stdout for stdout, _ in outputs]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]


@pytest.mark.slow
def test_two_processes_train_one_run_and_a_single_one_goes_on_with_it(tmp_path):
    """The first step's loss is that of a single process; later they drift apart by rounding."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    arguments = (*SHORT_DIGITS, "--config.num_epochs=1", "--config.log_every_steps=1")
    main_output, other_output = run_two(*arguments, f"--workdir={together}")
    assert "Checkpoint of step" in main_output
    assert "epoch" not in other_output
    assert run(*arguments, f"--workdir={alone}").returncode == 0
    np.testing.assert_allclose(losses(together)[:3], losses(alone)[:3], rtol=1e-5)
    assert [step for step, _ in losses(together)] == [step for step, _ in losses(alone)]
    assert json.loads((together / "result.json").read_text())["test"]["examples"] == 359
    longer = run(*SHORT_DIGITS, "--config.num_epochs=2", "--config.log_every_steps=1", f"--workdir={together}")
    assert longer.returncode == 0, longer.stderr
    assert "Note: device_count 2 -> 1" in longer.stdout
