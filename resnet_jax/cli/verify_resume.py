"""Prove that a run that is interrupted goes on as if nothing had happened: train it with and without, and compare.

With `--format=json` the keys are the fields of `training.verify_resume.Verdict`. The exit code is 1 where something
differs.
"""

import contextlib
import dataclasses
import json
import tempfile

from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, such as configs/digits.py.")
STEPS = flags.DEFINE_integer("steps", None, "To be taken; unset: two epochs, but 12 to 60.", lower_bound=1)
INTERRUPT_AT = flags.DEFINE_list("interrupt_at", None, "Stop at and kill at, such as 17,29; unset: at random steps.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where both runs are left; unset: they are removed.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "A report for people, or one line of JSON.")
flags.mark_flag_as_required("config")


def run() -> int:
    from resnet_jax.cli.app import DONE, SOME_FAILED
    from resnet_jax.diagnostics.verify_resume import report, verify_resume
    from resnet_jax.errors import UserError
    from resnet_jax.terminal import Reporter

    interrupt_at = None
    if INTERRUPT_AT.value:
        try:
            stop, kill = map(int, INTERRUPT_AT.value)
        except ValueError:
            raise UserError("--interrupt_at takes two steps, such as 17,29") from None
        interrupt_at = stop, kill
    reporter = Reporter(active=FORMAT.value == "text")
    temporary = contextlib.nullcontext(WORKDIR.value) if WORKDIR.value else tempfile.TemporaryDirectory()
    with temporary as directory:
        verdict = verify_resume(CONFIG.value, directory, STEPS.value, interrupt_at, reporter.update)
    if FORMAT.value == "json":
        print(json.dumps(dataclasses.asdict(verdict)))
    else:
        reporter.print(report(verdict))
    return SOME_FAILED if verdict.differences else DONE
