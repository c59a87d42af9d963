"""Seconds from typing the command to the first trained step: with nothing kept from earlier, and once more.

    python -m benchmarks.start_up
    python -m benchmarks.start_up --recipes=configs/cifar10.py:resnet20

The command is the real one, in a process of its own, with an empty cache directory at first. A step counts as trained
when its loss is in `metrics.jsonl`, which is at once, for a save is due then. That files of Python's packages are in
the system's memory is not prevented.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging

from benchmarks import program, results

RECIPES = flags.DEFINE_list(
    "recipes", ["configs/digits.py", "configs/cifar10.py:resnet20", "configs/cifar10.py:resnet18"], "To be started."
)
TIMES = flags.DEFINE_integer("times", 5, "Starts of each recipe with what an earlier one has kept.", lower_bound=1)

LOOK_SECONDS = 0.01


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    figures = []
    for recipe in RECIPES.value:
        with tempfile.TemporaryDirectory() as cache:
            first, *later = [_seconds(recipe, cache) for _ in range(1 + TIMES.value)]
        figures.append({"recipe": recipe, "first": first, "later": later})
        print(f"{recipe}: first {first:.1f} s, later {', '.join(f'{seconds:.1f}' for seconds in later)} s", flush=True)
    results.add("start_up", figures=figures)


def _seconds(recipe: str, cache: str) -> float:
    """Starts a run, and ends it once it has taken its first step."""
    with tempfile.TemporaryDirectory() as workdir:
        settings = ("--config.log_every_steps=1", "--config.checkpoint.every_minutes=1e-6")
        environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        metrics, started = pathlib.Path(workdir, "metrics.jsonl"), time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "main.py", f"--config={recipe}", *settings, f"--workdir={workdir}"],
            cwd=program.ROOT,
            env={**environment, "XDG_CACHE_HOME": cache},
            stdout=subprocess.DEVNULL,
        )
        with contextlib.ExitStack() as ending:
            ending.callback(process.wait)
            ending.callback(process.kill)
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError(f"the run of {recipe} ended before its first step")
                time.sleep(LOOK_SECONDS)
            return time.perf_counter() - started


if __name__ == "__main__":
    app.run(main)
