"""The time that the training loop adds to its compiled step, and the bottleneck of a run.

    python -m benchmarks.loop

The results are those of `python main.py benchmark --format=json`, which runs several times per recipe.
"""

from absl import app, flags, logging

from benchmarks import results, run_program

RECIPES = flags.DEFINE_list("recipes", ["configs/cifar10.py:resnet20", "configs/digits.py"], "Recipes to measure.")
TIMES = flags.DEFINE_integer("times", 3, "Measurements per recipe.", lower_bound=1)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    measured = []
    for recipe in RECIPES.value:
        times = [run_program.run_command("benchmark", f"--config={recipe}") for _ in range(TIMES.value)]
        measured.append({"recipe": recipe, "times": times})
    results.add("loop", cpu_is_tuned="as a run is", figures=measured)


if __name__ == "__main__":
    app.run(main)
