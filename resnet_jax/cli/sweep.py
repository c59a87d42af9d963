"""Train a recipe with different settings, and compare the runs on validation: a grid, or a search over ranges.

    python main.py sweep --config=configs/digits.py --set=optimizer.learning_rate=0.03,0.1,0.3 --set=seed=0,1 \
        --workdir=/tmp/sweep
    python main.py sweep --config=configs/digits.py --set=optimizer.learning_rate=0.01..1:log --trials=20 \
        --then_repeat=5 --workdir=/tmp/search

The runs are ordinary run directories in --workdir. The same command skips finished runs and resumes interrupted ones.
Only `--then_repeat` reads the test split.

With `--format=json`, the keys are `study`, `searched`, `runs` (the fields of `studies.sweep.Trial`, the best run first)
and `repeat` (null, or what `repeat` prints without `study`). `summary.json` holds the same values except `repeat`.
"""

import json
import os

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, UserError

CONFIG = shared_flags.define_config("The recipe, such as configs/digits.py.")
WORKDIR = shared_flags.define_workdir("The directory of the study: a new one, or one to resume.")
FORMAT = shared_flags.define_format()
JOBS = shared_flags.define_jobs()
SET = flags.DEFINE_multi_string(
    "set",
    [],
    "A setting and its values: optimizer.learning_rate=0.1,0.3 or a range such as 0.01..1 or 0.01..1:log. May be given "
    "several times.",
)
TRIALS = flags.DEFINE_integer("trials", None, "How many runs a search over ranges trains.", lower_bound=1)
THEN_REPEAT = flags.DEFINE_integer(
    "then_repeat",
    None,
    "Once all runs are finished, train the best settings with this many seeds, from --config.seed on, and score these "
    "on the test split.",
    lower_bound=1,
)


def run() -> ExitCode:
    from resnet_jax.studies import repeat, search_space, sweep
    from resnet_jax.terminal import Reporter, print_result

    recipe = shared_flags.given_recipe(CONFIG)
    space = search_space.parse(SET.value)
    search_space.check(space, recipe.config)
    if search_space.is_grid(space) == (TRIALS.value is not None):
        raise UserError("--trials and a range such as optimizer.learning_rate=0.01..1 go together. Give both or none.")
    with Reporter(active=FORMAT.value == "text") as reporter:
        results = sweep.sweep(WORKDIR.value, recipe, space, TRIALS.value or 0, JOBS.value, reporter)
        best = sweep.best_recipe(recipe, results)
        repeated = None
        if THEN_REPEAT.value and best and results.is_complete:
            seeds = range(recipe.config.seed, recipe.config.seed + THEN_REPEAT.value)
            # If a wider sweep finds better settings later, those have a directory of their own.
            path = os.path.join(WORKDIR.value, "best", results.trials[0].name)
            study, runs = repeat.open_seeds(path, best, seeds)
            repeated = repeat.train_and_summarize(study, runs, JOBS.value, reporter)
    if FORMAT.value == "json":
        repeat_values = repeat.as_json(repeated) if repeated else None
        print_result(json.dumps({**sweep.as_json(results), "repeat": repeat_values}))
    else:
        texts = [sweep.format_results(results), *([repeat.format_summary(repeated)] if repeated else [])]
        print_result("\n\n".join(texts))
    if not results.is_complete or (repeated and repeated.unfinished):
        return ExitCode.SOME_FAILED
    return ExitCode.DONE
