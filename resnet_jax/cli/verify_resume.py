"""Check that an interrupted and resumed run equals an uninterrupted one: train both and compare them bit for bit.

Both runs are new; nothing of an existing run is read. With `--format=json`, the keys are the fields of
`diagnostics.verify_resume.Verdict`. The exit code is 1 if anything differs.
"""

import contextlib
import dataclasses
import json
import tempfile

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode, UserError

CONFIG = shared_flags.define_config("The recipe, such as configs/digits.py.")
WORKDIR = shared_flags.define_workdir("The directory in which to keep both runs; unset: remove them.", required=False)
FORMAT = shared_flags.define_format()
STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Steps to train; a shorter run ends earlier. Unset: two epochs and one step, limited to 12 to 60 steps, but always "
    "at least four full calls of the train step.",
    lower_bound=1,
)
INTERRUPT_AT = flags.DEFINE_list(
    "interrupt_at",
    None,
    "The steps at which to stop and then to kill the interrupted run, such as 17,29; unset: random steps.",
)


def run() -> ExitCode:
    from resnet_jax.diagnostics.verify_resume import format_verdict, verify_resume
    from resnet_jax.terminal import Reporter, print_result

    interrupt_at = _interrupt_at()
    directory = contextlib.nullcontext(WORKDIR.value) if WORKDIR.value else tempfile.TemporaryDirectory()
    with directory as path, Reporter(active=FORMAT.value == "text") as reporter:
        verdict = verify_resume(CONFIG.value, path, STEPS.value, interrupt_at, reporter.update)
    print_result(json.dumps(dataclasses.asdict(verdict)) if FORMAT.value == "json" else format_verdict(verdict))
    return ExitCode.SOME_FAILED if verdict.differences else ExitCode.DONE


def _interrupt_at() -> tuple[int, int] | None:
    """Return the value of --interrupt_at."""
    if not INTERRUPT_AT.value:
        return None
    try:
        stop, kill = map(int, INTERRUPT_AT.value)
    except ValueError:
        raise UserError("--interrupt_at takes two steps, such as 17,29.") from None
    return stop, kill
