"""Find a range of learning rates for a recipe: train with a rising rate, and see where the loss falls and explodes.

    python main.py find_lr --config=configs/cifar10.py:resnet20 --to=learning_rate.html

The test (Smith 2017) takes a few hundred steps from the initial weights. It writes a page with the loss over the
learning rate, and leaves nothing else behind.
"""

import json

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, UserError, needs_extra

CONFIG = shared_flags.define_config("The recipe, such as configs/cifar10.py:resnet20.")
FORMAT = shared_flags.define_format()
TO = flags.DEFINE_string("to", "learning_rate.html", "The page to write.")
MIN_RATE = flags.DEFINE_float("min_rate", 1e-5, "The learning rate of the first step.", lower_bound=1e-30)
MAX_RATE = flags.DEFINE_float("max_rate", 10.0, "The learning rate of the last step.", upper_bound=1e30)
STEPS = flags.DEFINE_integer("steps", 200, "The number of steps.", lower_bound=20)


def run() -> ExitCode:
    with needs_extra("the page", "plotly", "report"):
        from resnet_jax.report import lr_range_chart

    from resnet_jax import files
    from resnet_jax.data.sources import open_sources
    from resnet_jax.diagnostics.lr_range_test import format_range_test, range_test
    from resnet_jax.runtime import parallel
    from resnet_jax.terminal import Reporter, print_result
    from resnet_jax.training import experiment

    target = "the page", ".html"
    files.check_target(TO.value, *target)
    if not MIN_RATE.value < MAX_RATE.value:
        raise UserError(f"--min_rate ({MIN_RATE.value:g}) is not below --max_rate ({MAX_RATE.value:g}). Correct them.")
    experiment.check(CONFIG.value, parallel.make_mesh())  # Before the dataset is downloaded.
    dataset = CONFIG.value.dataset
    sources = open_sources(dataset.name, dataset.data_dir)
    with Reporter(active=FORMAT.value == "text", max_unreadable=dataset.max_unreadable) as reporter:
        test = range_test(CONFIG.value, sources, reporter, MIN_RATE.value, MAX_RATE.value, STEPS.value)
    page = lr_range_chart.page(test.learning_rates, test.losses, test.smoothed, test.suggested)
    files.write_target(TO.value, *target, page.encode())
    if FORMAT.value == "json":
        arrays = {name: getattr(test, name).tolist() for name in ("learning_rates", "losses", "smoothed")}
        summary = {"suggested": test.suggested, "steepest": test.steepest, "exploded": test.exploded, "page": TO.value}
        print_result(json.dumps({**summary, **arrays}))
    else:
        print_result(f"{format_range_test(test)}\nThe curve is in {TO.value}.")
    return ExitCode.DONE
