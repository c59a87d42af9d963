"""Early stopping: steps and test accuracy on digits, with and without it.

    python -m benchmarks.early_stopping

Each setting is trained with several seeds by the command `repeat`. Its runs take the best checkpoint on validation, and
are scored on the test split.
"""

import json
import pathlib
import tempfile

from absl import app, flags, logging

from benchmarks import results, run_program

PATIENCES = (None, 10, 5)  # evaluations; None: no early stopping

SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds: 0, 1, 2, ...", lower_bound=2)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        runs = {str(patience): train(pathlib.Path(directory, str(patience)), patience) for patience in PATIENCES}
    results.add("early_stopping", cpu_is_tuned="as a run is", runs=runs)


def train(study: pathlib.Path, patience: int | None) -> list[dict]:
    """Train all seeds, and return the number of steps and the test top-1 of each."""
    changes = () if patience is None else (f"--config.early_stopping.patience={patience}",)
    seeds = f"--seeds=0:{SEEDS.value}"
    summary = run_program.run_command("repeat", "--config=configs/digits.py", *changes, seeds, f"--workdir={study}")
    top1 = summary["means"]["test"]["top1"]["values"]
    return [{"steps": _last_step(study / f"seed{seed}"), "top1": value} for seed, value in enumerate(top1)]


def _last_step(workdir: pathlib.Path) -> int:
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return max(json.loads(line)["step"] for line in lines)


if __name__ == "__main__":
    app.run(main)
