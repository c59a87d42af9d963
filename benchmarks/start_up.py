"""Seconds from the start of the command until the first step is trained, with an empty cache and with a filled one.

    python -m benchmarks.start_up
    python -m benchmarks.start_up --recipes=configs/cifar10.py:resnet20

The benchmark starts the real command in its own process, the first time with an empty cache directory. The step counts
as trained once its loss is in `metrics.jsonl`. The settings make the run save right after the step, and a save writes
the loss first. The page cache of the operating system may hold the files of Python's packages, also at the first start.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging

from benchmarks import results, run_program

RECIPES = flags.DEFINE_list(
    "recipes", ["configs/digits.py", "configs/cifar10.py:resnet20", "configs/cifar10.py:resnet18"], "Recipes to start."
)
TIMES = flags.DEFINE_integer("times", 5, "Starts per recipe with a filled cache.", lower_bound=1)

POLL_SECONDS = 0.01


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    measured = []
    for recipe in RECIPES.value:
        with tempfile.TemporaryDirectory() as cache:
            first, *later = [_seconds_to_first_step(recipe, cache) for _ in range(1 + TIMES.value)]
        measured.append({"recipe": recipe, "first": first, "later": later})
        print(f"{recipe}: first {first:.1f} s, later {', '.join(f'{seconds:.1f}' for seconds in later)} s", flush=True)
    results.add("start_up", figures=measured)


def _seconds_to_first_step(recipe: str, cache: str) -> float:
    """Start a run, end it once it has taken its first step, and return how long that took."""
    with tempfile.TemporaryDirectory() as workdir:
        settings = ("--config.log_every_steps=1", "--config.checkpoint.every_minutes=1e-6")
        environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        metrics = pathlib.Path(workdir, "metrics.jsonl")
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "main.py", f"--config={recipe}", *settings, f"--workdir={workdir}"],
            cwd=run_program.ROOT,
            env={**environment, "XDG_CACHE_HOME": cache},
            stdout=subprocess.DEVNULL,
        )
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(process.wait)
            cleanup.callback(process.kill)
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError(f"the run of {recipe} ended before its first step")
                time.sleep(POLL_SECONDS)
            return time.perf_counter() - started


if __name__ == "__main__":
    app.run(main)
