"""Whether a network learns the same on a CPU that is tuned, or tuned in part: by each of `tunings.py`, over seeds.

    python -m benchmarks.numerics
    python -m benchmarks.numerics --recipes=digits --seeds=3

Five epochs of `configs/digits.py`; 200 steps of `configs/cifar10.py:resnet20` with half its batch, at a constant rate,
without validation: TFDS must find the data. Each run is a process of its own. Runs of a seed begin with the same
weights and see the same batches.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags, logging

from benchmarks import program, results, tunings

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

NAMES = flags.DEFINE_list("recipes", list(RECIPES), "Which of the two are trained.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Of each recipe with each tuning.", lower_bound=2)

LAST_STEPS = 20  # over which the training loss is averaged
TRAIN = """
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
                runs[tuning].append(_trained(tuning, *RECIPES[recipe], f"--config.seed={seed}"))
                print(f"{recipe}, seed {seed}, {tuning}: {runs[tuning][-1]}", flush=True)
        results.add("numerics", recipe=recipe, cpu_is_tuned="as the runs say", runs=runs)


def _trained(tuning: str, *arguments: str) -> dict[str, float]:
    """Training loss of the last steps, and top-1 on the test split."""
    with tempfile.TemporaryDirectory() as workdir:
        # What main.py would do about the CPU has been done before.
        own = (f"--config.log_every_steps={LAST_STEPS}", f"--workdir={workdir}", "--notune_cpu")
        subprocess.run(
            [sys.executable, "-c", TRAIN, tuning, *arguments, *own],
            cwd=program.ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        records = map(json.loads, pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines())
        losses = [record["train/loss"] for record in records if "train/loss" in record]
        result = json.loads(pathlib.Path(workdir, "result.json").read_text())
    assert result["provenance"]["cpu_is_tuned"] == (tuning in tunings.TUNED), tuning
    return {"loss": losses[-1], "top1": result["test"]["top1"], "examples": result["test"]["examples"]}


if __name__ == "__main__":
    app.run(main)
