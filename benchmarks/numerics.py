"""Whether a network learns the same on a CPU that is tuned: with and without each thing of `tunings.py`, over seeds.

    python -m benchmarks.numerics
    python -m benchmarks.numerics --recipes=digits --seeds=3

The recipes are those of `configs/`, only shorter: five epochs of digits, and 200 steps of CIFAR-10. Each run is a
process of its own. Runs of a seed begin with the same weights and see the same batches.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags, logging

from benchmarks import results

RECIPES = {
    "digits": ("--config=configs/digits.py", "--config.num_epochs=5"),
    "cifar10": (
        "--config=configs/cifar10.py:resnet20",
        "--config.batch_size=64",
        "--config.num_epochs=1",
        "--config.schedule.name=constant",
        "--config.schedule.warmup_epochs=0",
        "--config.dataset.train_split=train[:12800]",
        "--config.dataset.validation_split=none",
    ),
}
TUNINGS = ("untuned", "keeping_memory", "tuned")

NAMES = flags.DEFINE_multi_enum("recipes", list(RECIPES), list(RECIPES), "To be trained.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Of each recipe with each tuning.", lower_bound=2)

ROOT = pathlib.Path(__file__).parents[1]
LAST_STEPS = 20  # over which the training loss is averaged
TRAIN = """
import runpy, sys
from benchmarks import tunings
getattr(tunings, sys.argv.pop(1))()
runpy.run_path("main.py", run_name="__main__")
"""


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    figures = []
    for recipe in NAMES.value:
        runs = {tuning: [] for tuning in TUNINGS}
        for seed in range(SEEDS.value):
            for tuning in TUNINGS:
                runs[tuning].append(_trained(tuning, *RECIPES[recipe], f"--config.seed={seed}"))
                print(f"{recipe}, seed {seed}, {tuning}: {runs[tuning][-1]}", flush=True)
        figures += [{"recipe": recipe, "tuning": tuning, "runs": of} for tuning, of in runs.items()]
    results.add("numerics", figures=figures)


def _trained(tuning: str, *arguments: str) -> dict[str, float]:
    """Training loss of the last steps, and top-1 on the test split."""
    with tempfile.TemporaryDirectory() as scratch:
        workdir = pathlib.Path(scratch, "run")
        # What main.py would set for the CPU itself has been set before, or has not.
        own = (f"--config.log_every_steps={LAST_STEPS}", f"--workdir={workdir}", "--notune_cpu")
        subprocess.run(
            [sys.executable, "-c", TRAIN, tuning, *arguments, *own],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        losses = [record["train/loss"] for record in records if "train/loss" in record]
        result = json.loads((workdir / "result.json").read_text())
    return {"loss": losses[-1], "top1": result["test"]["top1"], "examples": result["test"]["examples"]}


if __name__ == "__main__":
    app.run(main)
