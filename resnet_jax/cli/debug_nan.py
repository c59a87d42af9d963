"""Take the step apart at which the loss of a run was not finite: forward, loss and backward, outside the run.

A run leaves such a step in `nan/` of its directory; its pictures are written there as `batch.png`. With `--format=json`
the line has `step`, `first_not_finite` (null where the step is finite here), `in_the_run` (the same, as the run found
it), `parts` (objects with the fields of `training.nan_triage.StepValue`), `remedies`, and `pictures`, a path.
"""

import json

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "A table for people, or one line of JSON.")
flags.mark_flag_as_required("workdir")


def run() -> int:
    from resnet_jax.diagnostics import replay
    from resnet_jax.diagnostics.nan_report import remedies, values_table
    from resnet_jax.training.nan_triage import first_not_finite
    from resnet_jax.terminal import Reporter
    from resnet_jax.workdir.workdir import WorkDir

    directory, reporter = WorkDir(WORKDIR.value), Reporter(active=FORMAT.value == "text")
    config, classes = directory.config(), directory.classes()
    broken = replay.load(directory)
    reporter.print(f"Taking step {broken.step:,} apart ...")
    parts = replay.replay(broken, config, classes)
    pictures = replay.write_images(broken, directory, classes)
    first, advice = first_not_finite(parts), remedies(parts, broken.images)
    if FORMAT.value == "json":
        found = {
            "step": broken.step,
            "first_not_finite": first and str(first),
            "in_the_run": broken.first,
            "parts": [part._asdict() for part in parts],
            "remedies": advice,
            "pictures": str(pictures),
        }
        print(json.dumps(found))
    else:
        reporter.print(values_table(parts))
        if (first and str(first)) != broken.first:
            reporter.print(f"\nNote: in the run it was first in {broken.first or 'nothing'}; bits may differ here.")
        reporter.print("\n" + "\n".join([*advice, f"Its pictures are in {pictures}."]))
    return 0
