"""Find where in a step the first non-finite value of a run appeared.

A run with a non-finite loss or gradient leaves that step in the `nan/` subdirectory of the run directory. This command
computes the step again, outside the run: forward pass, loss and backward pass. It also writes the images of the step as
`batch.png`.

With `--format=json`, the output has these keys:

step                the number of steps taken before the step
first_not_finite    the name of the first non-finite value, or null if this command finds none
in_the_run          the name that the run found, or null if the step was finite when the run replayed it
parts               the values of the step in the order of computation, as objects with the fields of
                    `training.nan_triage.StepValue`; the key `parts` is kept for scripts
remedies            a list of sentences that suggest what to change
pictures            the path of the image file `batch.png`; the key `pictures` is kept for scripts
"""

import json

from resnet_jax.cli import flags
from resnet_jax.errors import ExitCode

WORKDIR = flags.define_workdir()
FORMAT = flags.define_format()


def run() -> ExitCode:
    from resnet_jax.diagnostics import replay
    from resnet_jax.diagnostics.nan_report import remedies, values_table
    from resnet_jax.terminal import Reporter, print_result
    from resnet_jax.training.nan_triage import first_not_finite
    from resnet_jax.workdir.workdir import WorkDir

    directory = WorkDir(WORKDIR.value)
    config, classes = directory.config(), directory.classes()
    with Reporter(active=FORMAT.value == "text") as reporter:
        saved_step = replay.load(directory)
        reporter.print(f"Computing step {saved_step.step:,} again ...")
        values = replay.replay(saved_step, config, classes)
        image_path = replay.write_images(saved_step, directory, classes)
        first = first_not_finite(values)
        first_name = None if first is None else str(first)
        advice = remedies(values, saved_step.images)
    if FORMAT.value == "json":
        output = {
            "step": saved_step.step,
            "first_not_finite": first_name,
            "in_the_run": saved_step.first,
            "parts": [value._asdict() for value in values],
            "remedies": advice,
            "pictures": str(image_path),
        }
        print_result(json.dumps(output))
    else:
        print_result(values_table(values))
        if first_name != saved_step.first:
            in_the_run = (
                f"in the run, the first non-finite value was in {saved_step.first}"
                if saved_step.first
                else "when the run replayed the step, it was finite"
            )
            print_result(f"\nNote: {in_the_run}. Outside the run, results may differ in their last bits.")
        print_result("\n" + "\n".join([*advice, f"The images of the step are in {image_path}."]))
    return ExitCode.DONE
