"""What a run's loop takes beside its compiled step, and what holds it up.

    python -m benchmarks.loop

Figures are from `python main.py benchmark --format=json`, each recipe several times.
"""

import json
import pathlib
import subprocess
import sys

from absl import app, flags, logging

from benchmarks import results

RECIPES = flags.DEFINE_list("recipes", ["configs/cifar10.py:resnet20", "configs/digits.py"], "To be measured.")
TIMES = flags.DEFINE_integer("times", 3, "That each is measured.", lower_bound=1)

ROOT = pathlib.Path(__file__).parents[1]


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    figures = [{"recipe": recipe, "times": [_speed(recipe) for _ in range(TIMES.value)]} for recipe in RECIPES.value]
    results.add("loop", cpu_is_tuned="as a run is", figures=figures)


def _speed(recipe: str) -> dict:
    """The fields of `resnet_jax.training.speed.Speed`."""
    print(f"{recipe} ...", flush=True)
    command = [sys.executable, "main.py", "benchmark", f"--config={recipe}", "--format=json"]
    finished = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


if __name__ == "__main__":
    app.run(main)
