"""Federated training on CIFAR-10: clients with more and more skewed classes, and training without clients.

    python -m benchmarks.federated
    python -m benchmarks.federated --config.num_epochs=10

Each variant of `configs/federated_cifar10.py` computes the same number of gradients, to within 0.5 %. But a client
takes only a tenth as many steps in a row per round as training without clients. The runs stay in --runs, so the same
command resumes.
"""

import json
import subprocess
import sys

from absl import app, flags, logging

from benchmarks import results, run_program
from benchmarks.recipe_settings import load

VARIANTS = ("central", "iid", "1", "0.1")
RUNS = flags.DEFINE_string("runs", str(run_program.ROOT / "runs" / "federated"), "Directory for the run directories.")


def main(argv: list[str], overrides: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}.")
    config = load("configs/federated_cifar10.py", overrides)
    results.add(
        "federated",
        cpu_is_tuned="as the runs say",
        model=f"{config.model.name}, {config.model.norm}",
        clients=config.federated.clients,
        rounds=config.num_epochs,
        overrides=overrides,
        runs={variant: train(variant, overrides) for variant in VARIANTS},
    )


def train(variant: str, overrides: list[str]) -> dict:
    """Train a variant, and return its accuracies by round."""
    workdir = run_program.runs_directory(RUNS.value, *overrides) / variant
    config = (f"--config=configs/federated_cifar10.py:{variant}", *overrides)
    subprocess.run([sys.executable, "main.py", *config, f"--workdir={workdir}"], cwd=run_program.ROOT, check=True)
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    result = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
    return {
        "validation_top1": [record["validation/top1"] for record in records if "validation/top1" in record],
        "worst_decile": [
            record["validation/worst_decile"] for record in records if "validation/worst_decile" in record
        ],
        "drift": [record["train/drift"] for record in records if "train/drift" in record],
        "test_top1": result["test"]["top1"],
        "seconds": result["seconds"],
        "provenance": result["provenance"],
    }


if __name__ == "__main__":
    run_program.run_with_overrides(main)
