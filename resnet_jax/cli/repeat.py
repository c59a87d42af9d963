"""Train a recipe with several seeds, or with several folds for validation, and report the mean and its uncertainty.

    python main.py repeat --config=configs/digits.py --seeds=0:5 --workdir=/tmp/study
    python main.py repeat --config=configs/digits.py --folds=5 --workdir=/tmp/folds

The runs are ordinary run directories, --workdir/seed0 and so on. The same command skips finished runs and resumes
interrupted ones. With more seeds, it trains the new ones.

With `--format=json`, the keys are `study`, `runs`, `unfinished`, `means` (by split and metric: the fields of
`studies.statistics.Spread`) and `comparison` (McNemar's test of the best and the worst run). `summary.json` holds the
same values except `study`.
"""

import json

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, UserError

CONFIG = shared_flags.define_config("The recipe, such as configs/digits.py.")
WORKDIR = shared_flags.define_workdir("The directory of the study: a new one, or one to resume.")
FORMAT = shared_flags.define_format()
JOBS = shared_flags.define_jobs()
SEEDS = flags.DEFINE_string("seeds", None, "The seeds: 0:5 for 0 to 4, or a list such as 0,3,7.")
FOLDS = flags.DEFINE_integer(
    "folds",
    None,
    "In place of seeds: divide the training split into this many stratified folds, and validate one run on each.",
    lower_bound=2,
)


def run() -> ExitCode:
    from resnet_jax.studies import repeat
    from resnet_jax.terminal import Reporter, print_result

    if (SEEDS.value is None) == (FOLDS.value is None):
        raise UserError("repeat takes either --seeds or --folds. Give exactly one of the two, such as --seeds=0:5.")
    recipe = shared_flags.given_recipe(CONFIG)
    if "seed" in recipe.overrides and SEEDS.value:
        raise UserError("--config.seed has no effect with --seeds. Remove it.")
    if FOLDS.value is None:
        study, runs = repeat.open_seeds(WORKDIR.value, recipe, parse_seeds(SEEDS.value or ""))
    else:
        study, runs = repeat.open_folds(WORKDIR.value, recipe, FOLDS.value)
    with Reporter(active=FORMAT.value == "text") as reporter:
        summary = repeat.train_and_summarize(study, runs, JOBS.value, reporter)
    values = {"study": str(study.path), **repeat.as_json(summary)}
    print_result(json.dumps(values) if FORMAT.value == "json" else repeat.format_summary(summary))
    return ExitCode.SOME_FAILED if summary.unfinished else ExitCode.DONE


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that a text such as "0:5" or "0,3,7" names.

    Raises:
      UserError: if the text has another form, or names no seed or one twice.

    Example:
      >>> parse_seeds("0:3"), parse_seeds("4,1")
      ([0, 1, 2], [4, 1])
    """
    try:
        if ":" in text:
            start, stop = map(int, text.split(":"))
            seeds = list(range(start, stop))
        else:
            seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds ({text}) must look like 0:5 or 0,3,7, without repetition.")
    return seeds
