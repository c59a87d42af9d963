"""Look at every picture of a data set, before training: what is there, and what of it would spoil a run.

The keys of `--format=json` are the fields of `data.inspect.inspection.Inspection`, and `contact_sheet`, the path of the
picture that is written, or null. The exit code is 1 where something would spoil a run.
"""

import dataclasses
import json
import sys

from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, such as configs/folder.py.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "A report for people, or one line of JSON.")
CONTACT_SHEET = flags.DEFINE_string("contact_sheet", "contact_sheet.png", "A PNG with some pictures of each class.")
flags.mark_flag_as_required("config")


def run() -> int:
    from resnet_jax.cli.app import DONE, SOME_FAILED
    from resnet_jax.data import feed_config
    from resnet_jax.data.inspect import contact_sheet, summary
    from resnet_jax.data.inspect.inspection import inspect
    from resnet_jax.data.inspect.plan import make_plan
    from resnet_jax.data.inspect.scan import look
    from resnet_jax.data.sources import open_sources
    from resnet_jax.runtime import parallel
    from resnet_jax.terminal import Reporter
    from resnet_jax.training import experiment

    config, mesh = CONFIG.value, parallel.make_mesh()
    experiment.check(config, mesh)
    contact_sheet.check(CONTACT_SHEET.value)
    sys.stdout.reconfigure(errors="replace")  # Names of files may be any bytes.
    reporter = Reporter(active=FORMAT.value == "text" and parallel.is_main_process())
    sources = open_sources(config.dataset.name, config.dataset.data_dir)
    with reporter:
        looked = look(sources, feed_config.num_workers(config.dataset), reporter)
        plan = make_plan(config, looked, mesh)
        inspection = inspect(config, sources, looked, plan)
    if parallel.is_main_process():
        sheet = contact_sheet.write(CONTACT_SHEET.value, looked, plan.train)
        if FORMAT.value == "json":
            print(json.dumps({**dataclasses.asdict(inspection), "contact_sheet": sheet}))
        else:
            reporter.print(summary.report(inspection, sheet))
    return SOME_FAILED if inspection.would_spoil else DONE
