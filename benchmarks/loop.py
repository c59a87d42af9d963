"""What a run's loop takes beside its compiled step, and what holds it up.

    python -m benchmarks.loop

Figures are from `python main.py benchmark --format=json`, each recipe several times.
"""

from absl import app, flags, logging

from benchmarks import program, results

RECIPES = flags.DEFINE_list("recipes", ["configs/cifar10.py:resnet20", "configs/digits.py"], "To be measured.")
TIMES = flags.DEFINE_integer("times", 3, "That each is measured.", lower_bound=1)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    figures = [
        {"recipe": recipe, "times": [program.answer("benchmark", f"--config={recipe}") for _ in range(TIMES.value)]}
        for recipe in RECIPES.value
    ]
    results.add("loop", cpu_is_tuned="as a run is", figures=figures)


if __name__ == "__main__":
    app.run(main)
