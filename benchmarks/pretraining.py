"""Pre-training on CIFAR-10 without labels: a probe of the features, and fine-tuning with 1 % of the labels.

    python -m benchmarks.pretraining simclr
    python -m benchmarks.pretraining byol --seeds=1 --config.num_epochs=10

Each seed is pre-trained by `configs/pretrain.py`, and its features are probed. Then the same model is trained on 500
labeled images twice: from the pre-trained weights, and from scratch. For each of the two, the command `sweep` chooses
the learning rate on validation, and scores the test split once. The runs stay in --runs, so the same command resumes.
"""

import json
import subprocess
import sys

from absl import app, flags, logging

from benchmarks import results, run_program
from benchmarks.recipe_settings import load

SEEDS = flags.DEFINE_integer("seeds", 2, "Number of seeds: 0, 1, 2, ...", lower_bound=1)
RUNS = flags.DEFINE_string("runs", str(run_program.ROOT / "runs" / "pretraining"), "Directory for the run directories.")
FEW_LABELS = (
    "--config.dataset.train_split=train[:500]",
    "--config.dataset.validation_split=train[45000:]",
    "--config.batch_size=50",
    "--config.num_epochs=50",
    "--config.evaluate_every_epochs=10",
    "--set=optimizer.learning_rate=0.02,0.1",
    "--then_repeat=1",
)


def main(argv: list[str], overrides: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    if len(argv) != 2:
        raise app.UsageError("Give one method, such as simclr.")
    recipe = f"configs/pretrain.py:{argv[1]}"
    runs = [measure(recipe, overrides, seed) for seed in range(SEEDS.value)]
    config = load(recipe, overrides)
    results.add(
        "pretraining",
        cpu_is_tuned="as the runs say",
        method=argv[1],
        model=config.model.name,
        epochs=config.num_epochs,
        batch_size=config.batch_size,
        overrides=overrides,
        runs=runs,
    )


def measure(recipe: str, overrides: list[str], seed: int) -> dict:
    """Pre-train a seed, and return the accuracies of the probe and of training with few labels."""
    workdir = run_program.runs_directory(RUNS.value, recipe.rpartition(":")[2], *overrides) / f"seed{seed}"
    config = (f"--config={recipe}", *overrides, f"--config.seed={seed}")
    train = [sys.executable, "main.py", *config, f"--workdir={workdir}"]
    subprocess.run(train, cwd=run_program.ROOT, check=True)
    probed = run_program.run_command("probe", f"--workdir={workdir}")
    model = load(recipe, overrides).model.name
    labeled = (f"--config=configs/cifar10.py:{model}", *FEW_LABELS, f"--config.seed={seed}")
    starts = {"pretrained": (f"--config.init_from={workdir}",), "scratch": ()}
    tuned = {
        name: run_program.run_command("sweep", *labeled, *changes, f"--workdir={workdir}_{name}")
        for name, changes in starts.items()
    }
    for probe in probed["results"]:
        probe["features"] = probe["features"].removeprefix(f"{workdir.parent}/")
    result = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "provenance": result["provenance"],
        "probe": probed["results"],
        "few_labels": {name: sweep["repeat"]["runs"][0]["test"]["top1"] for name, sweep in tuned.items()},
    }


if __name__ == "__main__":
    run_program.run_with_overrides(main)
