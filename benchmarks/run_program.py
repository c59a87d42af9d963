"""Run the program as a user does, for benchmarks that measure the whole program."""

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

from absl import app

ROOT = pathlib.Path(__file__).parents[1]


def run_with_overrides(main: Callable[[list[str], list[str]], None]) -> None:
    """Run `main` with the flags that override settings, sorted, as its second argument, and all others as its first."""
    overrides = sorted(argument for argument in sys.argv if argument.startswith("--config."))
    others = [argument for argument in sys.argv if argument not in overrides]
    app.run(lambda argv: main(argv, overrides), argv=others)


def runs_directory(runs: str, *names: str) -> pathlib.Path:
    """Return the directory for runs with these names and overrides.

    Example:
      >>> str(runs_directory("/runs", "cifar10:resnet20", "--config.num_epochs=10"))
      '/runs/cifar10_resnet20/num_epochs=10'
    """
    parts = [re.sub(r"[^\w.=-]+", "_", name.removeprefix("--config.")) for name in names]
    return pathlib.Path(runs).expanduser().absolute().joinpath(*parts)


def run_command(*arguments: str, **environment: str) -> dict:
    """Run a command of `main.py` with `--format=json`, and return what it prints.

    Args:
      *arguments: the command and its flags.
      **environment: environment variables to add or replace.
    """
    print(" ".join(arguments), flush=True)
    finished = subprocess.run(
        [sys.executable, "main.py", *arguments, "--format=json"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])
