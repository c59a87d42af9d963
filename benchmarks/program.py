"""The program as a user starts it, for benchmarks of the whole of it."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def answer(*arguments: str, **environment: str) -> dict:
    """What a verb answers in its line of JSON."""
    print(" ".join(arguments), flush=True)
    finished = subprocess.run(
        [sys.executable, "main.py", *arguments, "--format=json"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])
