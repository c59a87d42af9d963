"""Tell all about a trained network on one page, to be opened in any browser: no network is needed, then or ever.

    python main.py report --workdir=/tmp/run                     # writes /tmp/run/report.html
    python main.py report --workdir=/tmp/run /tmp/run2 --to=comparison.html

It scores the network as `evaluate` does, so it needs the data. The test split is for the end: of a run that is not
finished it reports what the run was validated on.
"""

from absl import flags

from resnet_jax.cli import cluster_flags

ARGUMENTS = "further workdirs, to be compared with --workdir"
WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.")
TO = flags.DEFINE_string("to", None, "The page to write; unset: report.html in the workdir.")
SPLIT = flags.DEFINE_string(
    "split", None, "Such as train[:1000]; unset: test, or validation of a run that is not finished."
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data is, if not where it was in training.")
flags.mark_flag_as_required("workdir")


def run(workdirs: list[str]) -> int:
    from resnet_jax import files
    from resnet_jax.report.collect import gather
    from resnet_jax.report.page import render
    from resnet_jax.runtime import parallel
    from resnet_jax.terminal import Reporter
    from resnet_jax.workdir.workdir import WorkDir

    target = "the report", ".html"
    if TO.value:
        files.check_target(TO.value, *target)
    cluster_flags.join()
    with Reporter(active=parallel.is_main_process()) as reporter:
        gathered = gather([WORKDIR.value, *workdirs], reporter, SPLIT.value, DATA_DIR.value)
    if parallel.is_main_process():
        page = render(gathered).encode(errors="replace")  # Names of files may be any bytes.
        if TO.value:
            files.write_target(TO.value, *target, page)
        else:
            WorkDir(WORKDIR.value).write("report.html", page)
        reporter.print(f"Wrote {TO.value or f'{WORKDIR.value}/report.html'}, {len(page) / 1e6:.1f} MB.")
    return 0
