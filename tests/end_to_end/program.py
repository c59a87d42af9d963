"""Starts the real program, as a user does."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

TINY = str(ROOT / "tests" / "end_to_end" / "tiny.py")  # the program with a network that compiles in a second

# Digits in little: a few seconds a run, once compiled.
SHORT_DIGITS = (
    "--config=configs/digits.py",
    "--config.num_epochs=4",
    "--config.schedule.warmup_epochs=0.5",
    "--config.dataset.train_split=train[:600]",
    "--config.log_every_steps=3",
    "--config.ema_decay=0.9",
)
# Ten epochs and more, of eight steps, can be interrupted often.
LONGER_DIGITS = (*SHORT_DIGITS, "--config.num_epochs=60")


def start(*arguments: str, program: str = "main.py", **environment: str) -> subprocess.Popen:
    """Starts `python main.py ARGUMENTS`, or another program, on a single device."""
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
