"""Loss and accuracy of training with each of the CPU tunings in `tunings.py`, over several seeds.

    python -m benchmarks.numerics
    python -m benchmarks.numerics --recipes=digits --seeds=3

There are two recipes: five epochs of `configs/digits.py`, and 200 steps of `configs/cifar10.py:resnet20` with half its
batch size, a constant learning rate and no validation. The second needs CIFAR-10, downloaded or prepared by TFDS. Each
run has its own process. Runs with the same seed start from the same weights and see the same batches.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags, logging

from benchmarks import results, run_program, tunings

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
TUNINGS = ("untuned", "keeping_memory", "without_ynnpack", "tuned")

NAMES = flags.DEFINE_list("recipes", list(RECIPES), "Recipes to train: digits, cifar10 or both.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds per recipe and tuning.", lower_bound=2)

LAST_STEPS = 20  # over which the training loss is averaged
TRAIN_PROGRAM = """
import runpy, sys
from benchmarks import tunings
getattr(tunings, sys.argv.pop(1))()
runpy.run_path("main.py", run_name="__main__")
"""


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    for recipe in NAMES.value:
        runs = {tuning: [] for tuning in TUNINGS}
        for seed in range(SEEDS.value):
            for tuning in TUNINGS:
                runs[tuning].append(_train(tuning, *RECIPES[recipe], f"--config.seed={seed}"))
                print(f"{recipe}, seed {seed}, {tuning}: {runs[tuning][-1]}", flush=True)
        results.add("numerics", recipe=recipe, cpu_is_tuned="as the runs say", runs=runs)


def _train(tuning: str, *arguments: str) -> dict[str, float]:
    """Train, and return the training loss of the last steps, and the top-1 and size of the test split."""
    with tempfile.TemporaryDirectory() as workdir:
        # TRAIN_PROGRAM applies the tuning before it runs main.py, which must not apply its own tuning.
        flags_of_run = (f"--config.log_every_steps={LAST_STEPS}", f"--workdir={workdir}", "--notune_cpu")
        subprocess.run(
            [sys.executable, "-c", TRAIN_PROGRAM, tuning, *arguments, *flags_of_run],
            cwd=run_program.ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        records = map(json.loads, pathlib.Path(workdir, "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        losses = [record["train/loss"] for record in records if "train/loss" in record]
        result = json.loads(pathlib.Path(workdir, "result.json").read_text(encoding="utf-8"))
    assert result["provenance"]["cpu_is_tuned"] == (tuning in tunings.TUNED), tuning
    return {"loss": losses[-1], "top1": result["test"]["top1"], "examples": result["test"]["examples"]}


if __name__ == "__main__":
    app.run(main)
