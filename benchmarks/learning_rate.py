"""Validation accuracy with the learning rate that `find_lr` suggests, and with that of the recipe.

    python -m benchmarks.learning_rate digits
    python -m benchmarks.learning_rate cifar10:resnet20 --seeds=3 --config.num_epochs=2

The suggestion is a range, whose upper end is meant for schedules that fall to zero, as those of these recipes do. Both
rates are trained with several seeds by the command `repeat`, and compared on validation. The test split is not read.
"""

import pathlib
import tempfile

from absl import app, flags, logging

from benchmarks import results, run_program
from benchmarks.recipe_settings import load, recipe_path

SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds: 0, 1, 2, ...", lower_bound=2)
MAX_RATE = flags.DEFINE_float("max_rate", 10.0, "The highest learning rate of the test.", lower_bound=0)


def main(argv: list[str], overrides: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    if len(argv) != 2:
        raise app.UsageError("Give one recipe, such as digits or cifar10:resnet20.")
    recipe = recipe_path(argv[1])
    config = (f"--config={recipe}", *overrides)
    with tempfile.TemporaryDirectory() as directory:
        page = f"--to={directory}/learning_rate.html"
        range_test = run_program.run_command("find_lr", *config, page, f"--max_rate={MAX_RATE.value}")
        rates = {
            "recipe": load(recipe, overrides).optimizer.learning_rate,
            "find_lr": range_test["suggested"][1],
        }
        top1 = {name: train(config, rate, pathlib.Path(directory, name)) for name, rate in rates.items()}
    results.add(
        "learning_rate",
        cpu_is_tuned="as a run is",
        recipe=recipe,
        overrides=overrides,
        suggested=range_test["suggested"],
        rates=rates,
        top1=top1,
    )


def train(config: tuple[str, ...], rate: float, study: pathlib.Path) -> list[float]:
    """Train all seeds with a learning rate, and return their validation top-1."""
    changes = (f"--config.optimizer.learning_rate={rate!r}", "--config.dataset.test_split=none")
    seeds = f"--seeds=0:{SEEDS.value}"
    summary = run_program.run_command("repeat", *config, *changes, seeds, f"--workdir={study}")
    return summary["means"]["validation"]["top1"]["values"]


if __name__ == "__main__":
    run_program.run_with_overrides(main)
