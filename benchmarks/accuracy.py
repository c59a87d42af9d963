"""Test accuracy of a recipe: its mean and standard deviation over several seeds.

    python -m benchmarks.accuracy digits
    python -m benchmarks.accuracy cifar10:resnet20 --seeds=3 --config.num_epochs=10

The recipe is a file in `configs/`, with a variant if it has one. Settings are changed as on the command line of
`main.py`, whose command `repeat` trains the seeds 0, 1, 2, ... one after another. The runs stay in
RUNS/RECIPE/SETTING=VALUE/seed0, seed1, ..., so the same command resumes interrupted runs, keeps finished ones, and with
more --seeds trains only the new ones. Ctrl-C stops the run in progress, which saves a checkpoint.

Seeds can be trained in parts, for example on two machines: `--first_seed=3 --seeds=2` trains the seeds 3 and 4. The
tables join all recorded seeds of a recipe with the same settings on the same kind of device: CPU, GPU or TPU.
"""

import json
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags, logging
from etils import epath

from benchmarks import recipe_settings, results, run_program
from resnet_jax import config as settings
from resnet_jax.errors import ExitCode
from resnet_jax.terminal import duration, table
from resnet_jax.training.metrics_writer import read_curves

SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=1)
FIRST_SEED = flags.DEFINE_integer("first_seed", 0, "The first seed; the others follow it.", lower_bound=0)
RUNS = flags.DEFINE_string("runs", str(run_program.ROOT / "runs"), "Directory for the run directories of all recipes.")

CURVES = ("train/top1", "validation/top1")  # the training curves that a line of results holds, if the runs have them


def main(argv: list[str], overrides: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    if len(argv) != 2:
        raise app.UsageError("Give one recipe, such as digits or cifar10:resnet20.")
    if any(override.startswith("--config.seed=") for override in overrides):
        raise app.UsageError("--config.seed cannot be given, because each run has its own seed. Use --seeds=NUMBER.")
    recipe = recipe_settings.recipe_path(argv[1])
    directory = run_program.runs_directory(RUNS.value, _name(recipe), *overrides)
    seeds = range(FIRST_SEED.value, FIRST_SEED.value + SEEDS.value)
    measured = measure(recipe, overrides, seeds, directory)
    print(f"\n{_table(measured['runs'])}\n\nThe runs are in {directory}.")
    results.add("accuracy", cpu_is_tuned="as the runs say", **measured)
    print("To update the tables in both README files, run: python -m benchmarks.tables")


def measure(recipe: str, overrides: Sequence[str], seeds: range, directory: pathlib.Path) -> dict:
    """Train or resume a run per seed, and return the line of results.

    Args:
      recipe: the value of --config, such as "configs/cifar10.py:resnet20".
      overrides: flags that change its settings, such as "--config.num_epochs=10".
      seeds: the seeds.
      directory: where the run directories are, or will be.

    Raises:
      SystemExit: if `repeat` stops or fails, with its exit code; or if a run has no test accuracy.
    """
    seeds_flag = f"--seeds={seeds.start}:{seeds.stop}"
    command = ["main.py", "repeat", f"--config={recipe}", *overrides, seeds_flag, f"--workdir={directory}"]
    print(f"python {shlex.join(command)}\n", flush=True)
    code = _run([sys.executable, *command])
    if code:
        _exit("Not all runs are finished. Run the same command again to resume.", code)
    workdirs = [directory / f"seed{seed}" for seed in seeds]
    return {
        "recipe": recipe,
        "overrides": list(overrides),
        "settings": _read_settings(workdirs[0]),
        "runs": [_read_result(workdir, seed) for workdir, seed in zip(workdirs, seeds, strict=True)],
    }


def _run(command: Sequence[str]) -> int:
    """Run a command to its end and return its exit code. Ctrl-C and SIGTERM end the command, not this process."""
    process = subprocess.Popen(command, cwd=run_program.ROOT)
    handlers = {
        signal.SIGINT: lambda *_: None,  # The terminal sends it to both processes.
        signal.SIGTERM: lambda *_: process.terminate(),
    }
    previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        code = process.wait()
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    return code if code >= 0 else 128 - code  # A process that signal N ends has exit code 128 + N, as in a shell.


def _exit(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


def _read_result(workdir: pathlib.Path, seed: int) -> dict:
    """Return the result of a finished run. Exit if it has no test accuracy."""
    result = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
    if not result["test"]:
        _exit(f"error: {workdir} has no test accuracy. Choose a dataset.test_split.", ExitCode.USER_ERROR)
    tta = list((result.get("test_tta") or {}).values())  # A run has the metrics of at most one augmentation.
    return {
        "seed": seed,
        "top1": result["test"]["top1"],
        "tta_top1": tta[0]["top1"] if tta else None,
        "examples": result["test"]["examples"],
        "checkpoint_step": result["checkpoint_step"],
        "seconds": result["seconds"],
        "seconds_with_compilation": sum(result["spent"].values()),
        "curves": {name: curve._asdict() for name, curve in read_curves(epath.Path(workdir)).items() if name in CURVES},
        "provenance": result["provenance"],
    }


def _read_settings(workdir: pathlib.Path) -> dict:
    return recipe_settings.as_json(settings.from_json((workdir / "config.json").read_text(encoding="utf-8")))


def _name(recipe: str) -> str:
    """Return the short name of a recipe, such as "cifar10:resnet20"."""
    return recipe.removeprefix("configs/").replace(".py", "")


def _table(runs: Sequence[dict]) -> str:
    rows = [
        (
            run["seed"],
            f"{run['top1']:.2%}",
            f"{run['tta_top1']:.2%}" if run["tta_top1"] is not None else "-",
            run["examples"],
            run["checkpoint_step"],
            duration(run["seconds_with_compilation"]),
        )
        for run in runs
    ]
    return table(rows, header=("seed", "test top-1", "with TTA", "examples", "checkpoint", "time"))


if __name__ == "__main__":
    run_program.run_with_overrides(main)
