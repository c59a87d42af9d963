"""Write an HTML page about a trained model. Any browser opens it, without a network connection.

    python main.py report --workdir=/tmp/run                     # writes /tmp/run/report.html
    python main.py report --workdir=/tmp/run /tmp/run2 --to=comparison.html

The directory of a study (see `repeat` and `sweep`) stands for all of its finished runs.

The command scores the model as `evaluate` does, so it needs the data. Because the test split is reserved for the final
result, the page of an unfinished run shows the validation split.
"""

import logging
import os

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, UserError, needs_extra

logger = logging.getLogger(__name__)

ARGUMENTS = "more workdirs, to compare with --workdir"
WORKDIR = shared_flags.define_workdir()
DATA_DIR = shared_flags.define_data_dir()
CLUSTER = shared_flags.ClusterFlags()
TO = flags.DEFINE_string("to", None, "The page to write; unset: report.html in the workdir.")
SPLIT = flags.DEFINE_string(
    "split",
    None,
    "The split to score, such as train[:1000]; unset: test, or validation if a run is not finished or the first has no "
    "test split.",
)


def run(workdirs: list[str]) -> ExitCode:
    # Checked first, because scoring takes a while.
    with needs_extra("the report", "plotly", "report"):
        import plotly  # noqa: F401  Used by the package `report`.
    with needs_extra("the report", "jinja2", "report"):
        import jinja2  # noqa: F401  Used by the package `report`.

    from resnet_jax import files
    from resnet_jax.report.collect import collect
    from resnet_jax.report.page import render
    from resnet_jax.runtime import parallel
    from resnet_jax.studies.study import finished_runs
    from resnet_jax.terminal import Reporter
    from resnet_jax.workdir.workdir import WorkDir

    target = "the report", ".html"
    if TO.value:
        files.check_target(TO.value, *target)
    elif os.path.isdir(WORKDIR.value) and not os.access(WORKDIR.value, os.W_OK):
        raise UserError(f"cannot write a report into {WORKDIR.value} (permission denied). Choose a file with --to.")
    CLUSTER.join()
    with Reporter(active=parallel.is_main_process()) as reporter:
        report = collect(finished_runs([WORKDIR.value, *workdirs]), reporter, SPLIT.value, DATA_DIR.value)
        if parallel.is_main_process():
            page = render(report).encode(errors="replace")  # File names may contain bytes that are not UTF-8.
            if TO.value:
                files.write_target(TO.value, *target, page)
            else:
                WorkDir(WORKDIR.value).write("report.html", page)
            logger.info(f"Wrote {TO.value or f'{WORKDIR.value}/report.html'}, {len(page) / 1e6:.1f} MB.")
    return ExitCode.DONE
