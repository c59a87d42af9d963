"""Starts the real program, as a user does, with a tiny network to choose besides."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
HERE = ROOT / "tests" / "end_to_end"

TINY = str(HERE / "tiny.py")  # the program with a network that compiles in a second

# Digits in little: a few seconds a run, most of which go into its start.
SHORT_DIGITS = (
    "--config=configs/digits.py",
    "--config.model.name=tiny",
    "--config.num_epochs=4",
    "--config.schedule.warmup_epochs=0.5",
    "--config.dataset.train_split=train[:600]",
    "--config.log_every_steps=3",
    "--config.ema_decay=0.9",
)

# An environment for a program: Python runs a module on its path that hides TensorFlow, as if it were not installed.
# A run starts in half the time, without TensorBoard.
WITHOUT_TENSORFLOW = {"PYTHONPATH": os.pathsep.join([str(HERE / "without_tensorflow"), str(ROOT)])}


def start(*arguments: str, program: str = TINY, **environment: str) -> subprocess.Popen:
    """Starts the program with these arguments, or another one, such as `main.py`, on a single device."""
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, program, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs it to its end."""
    process = start(*arguments, **environment)
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
