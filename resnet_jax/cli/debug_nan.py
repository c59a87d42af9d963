"""Take the step apart at which the loss of a run was not finite: forward, loss and backward, outside the run.

A run leaves such a step in `nan/` of its directory; its pictures are written there as `batch.png`. With `--format=json`
the line has `step`, `first_not_finite` (null where the step is finite here), `in_the_run` (the same, as the run found
it), `parts` (objects with the fields of `training.nan_triage.Part`), `remedies`, and `pictures`, a path.
"""

import json

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "A table for people, or one line of JSON.")
flags.mark_flag_as_required("workdir")


def run() -> int:
    from resnet_jax.diagnostics import broken_step
    from resnet_jax.diagnostics.nan_report import remedies, values_table
    from resnet_jax.diagnostics.nan_triage import first_not_finite
    from resnet_jax.terminal import ProgressLine
    from resnet_jax.workdir.workdir import WorkDir

    directory, progress = WorkDir(WORKDIR.value), ProgressLine(active=FORMAT.value == "text")
    config, classes = directory.config(), directory.classes()
    broken = broken_step.load(directory)
    progress.print(f"Taking step {broken.step:,} apart ...")
    parts = broken_step.take_apart(broken, config, classes)
    pictures = broken_step.write_pictures(broken, directory, classes)
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
        progress.print(values_table(parts))
        if (first and str(first)) != broken.first:
            progress.print(f"\nNote: in the run it was first in {broken.first or 'nothing'}; bits may differ here.")
        progress.print("\n" + "\n".join([*advice, f"Its pictures are in {pictures}."]))
    return 0
