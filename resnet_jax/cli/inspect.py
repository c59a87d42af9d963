"""Check every image of a dataset before training: what it contains, and what would spoil a run.

With `--format=json`, the keys are the fields of `data.inspect.inspection.Inspection`, and `contact_sheet`, the path of
the image that is written, or null. The exit code is 1 if something would spoil a run.
"""

import dataclasses
import json

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode

CONFIG = shared_flags.define_config("The recipe, such as configs/folder.py.")
FORMAT = shared_flags.define_format()
CONTACT_SHEET = flags.DEFINE_string(
    "contact_sheet", "contact_sheet.png", "The PNG file to write, with example images of each class."
)


def run() -> ExitCode:
    from resnet_jax.data import feed_config
    from resnet_jax.data.inspect import contact_sheet, summary
    from resnet_jax.data.inspect.inspection import inspect
    from resnet_jax.data.inspect.plan import make_plan
    from resnet_jax.data.inspect.scan import scan_images
    from resnet_jax.data.sources import open_sources
    from resnet_jax.runtime import parallel
    from resnet_jax.terminal import Reporter, print_result
    from resnet_jax.training import experiment

    config = CONFIG.value
    mesh = parallel.make_mesh()
    experiment.check(config, mesh)
    contact_sheet.check(CONTACT_SHEET.value)
    sources = open_sources(config.dataset.name, config.dataset.data_dir)
    with Reporter(active=FORMAT.value == "text" and parallel.is_main_process()) as reporter:
        num_workers = feed_config.num_workers(config.dataset)
        scanned = scan_images(sources, num_workers, reporter, config.dataset.bit_depth)
        plan = make_plan(config, scanned, mesh)
        inspection = inspect(config, sources, scanned, plan)
    if parallel.is_main_process():
        sheet = contact_sheet.write(CONTACT_SHEET.value, scanned, plan.train)
        if FORMAT.value == "json":
            print_result(json.dumps({**dataclasses.asdict(inspection), "contact_sheet": sheet}))
        else:
            print_result(summary.report(inspection, sheet))
    return ExitCode.SOME_FAILED if inspection.would_spoil else ExitCode.DONE
