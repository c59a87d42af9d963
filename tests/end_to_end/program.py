"""Start the real program as a user does, with one more model to choose from: the tiny one."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
HERE = ROOT / "tests" / "end_to_end"

TINY_PROGRAM = str(HERE / "tiny.py")  # main.py with a model that compiles in a second

# A small run on digits. It takes a few seconds, most of them to start.
SHORT_DIGITS = (
    "--config=configs/digits.py",
    "--config.model.name=tiny",
    "--config.num_epochs=4",
    "--config.schedule.warmup_epochs=0.5",
    "--config.dataset.train_split=train[:600]",
    "--config.log_every_steps=3",
    "--config.ema_decay=0.9",
)

# Environment variables for a program: Python runs a module on this path that hides TensorFlow, as if it were not
# installed. A run without TensorBoard starts in half the time.
WITHOUT_TENSORFLOW = {"PYTHONPATH": os.pathsep.join([str(HERE / "without_tensorflow"), str(ROOT)])}


def start(*arguments: str, program: str = TINY_PROGRAM, **environment: str) -> subprocess.Popen:
    """Start the program on a single device.

    Args:
      *arguments: its command line.
      program: a Python file, such as `main.py`.
      **environment: environment variables to add or replace.
    """
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
    """Start the program (see `start`) and wait until it ends."""
    process = start(*arguments, **environment)
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
