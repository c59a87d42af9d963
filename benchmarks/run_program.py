"""Run the program as a user does, for benchmarks that measure the whole program."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


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
