"""Verify that an interrupted run resumes exactly, or list what differs.

One process trains to a given step without interruption. Three other processes train an equal run to the same step: the
first is stopped as if by Ctrl-C, the second resumes and gets SIGKILL at a later step, and the third resumes, repeats
the lost steps and trains to the end. The steps of both interruptions are random unless they are given.

Steps are numbered from 0, so a run that stops at step 17 has taken 17 steps.
"""

import dataclasses
import json
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

import resnet_jax
from resnet_jax import config as settings
from resnet_jax.diagnostics import run_diff
from resnet_jax.diagnostics.resume_worker import PROGRESS, Job
from resnet_jax.diagnostics.run_diff import Difference
from resnet_jax.errors import UserError
from resnet_jax.runtime import cpu_tuning
from resnet_jax.terminal import duration, table

LOST_STEP_SUFFIX = "before SIGKILL"  # ends the name of the inputs of a step that was lost and repeated
SIGKILL_EXIT_CODE = -signal.SIGKILL  # exit code of a process that got SIGKILL
WORKER_CODE = (  # Python code that a worker process runs
    "import sys; from resnet_jax.runtime import cpu_tuning; {tune}"
    "from resnet_jax.diagnostics.resume_worker import main; sys.exit(main())"
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Result of the verification.

    Attributes:
      steps: the number of steps of each run.
      stopped_at: the step at which the interrupted run saved and stopped.
      killed_at: the step at which the interrupted run got SIGKILL.
      resumed_from: the steps from which the interrupted run resumed, after the stop and after the kill.
      leaves: the number of compared arrays (see `run_diff.Leaves`).
      differences: the leaves that differ.
      provenance: software and hardware of the runs. The result holds only for these.
      seconds: duration of the verification.
    """

    steps: int
    stopped_at: int
    killed_at: int
    resumed_from: tuple[int, int]
    leaves: int
    differences: tuple[Difference, ...]
    provenance: dict
    seconds: float


def verify_resume(
    config: ConfigDict,
    directory: str,
    steps: int | None = None,
    interrupt_at: tuple[int, int] | None = None,
    show: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Train a run without interruption and an equal run with two interruptions, and compare both.

    All processes run on this host. Both runs end after `steps` steps, or earlier if `config` describes a shorter run.
    If a call of the train step takes several steps, both runs end with the call that takes the last of `steps`.

    Args:
      config: settings, made from `resnet_jax.config.default()`.
      directory: where to write the run directories `straight` and `interrupted`, and the notes and logs of the four
        processes.
      steps: how many steps to take; a shorter run ends earlier. Default: two epochs and one step, limited to 12 to 60
        steps, but always at least four full calls of the train step.
      interrupt_at: the steps at which to stop and to kill, in increasing order. Each must be the first step of a call
        of the train step, but not of the first call. Default: two such steps, chosen at random.
      show: called with lines that describe the progress.

    Raises:
      UserError: if the run has fewer than three calls of the train step, so that it cannot be interrupted twice; if
        `interrupt_at` is not as above; if the directory cannot be written to or already holds runs; or if a run fails.
    """
    started = time.monotonic()
    root = pathlib.Path(directory).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {root} ({error.strerror}). Choose another --workdir.") from error
    if any((root / name).exists() for name in ("straight", "interrupted")):
        raise UserError(f"{root} already holds runs of an earlier check. Choose another --workdir.")
    config_json = settings.to_json(config.copy_and_resolve_references())

    def process(name: str, number: int, stop_at: int | None, kill_at: int | None = None) -> list[dict]:
        files = str(root / f"{name}-{number}")
        job = Job(config_json, str(root / name), f"{files}.notes", stop_at, kill_at)
        _run(job, files, lambda line: show(f"{name} run, process {number}: {line}"))
        return [json.loads(line) for line in pathlib.Path(job.notes).read_text(encoding="utf-8").splitlines()]

    calls = process("straight", 1, steps)
    end = calls[-1]["steps"][-1] + 1
    stop, kill = _choose_interruptions([call["steps"][0] for call in calls[1:]], interrupt_at)
    interrupted_calls = [
        process("interrupted", 1, stop),
        process("interrupted", 2, end, kill),
        process("interrupted", 3, end),
    ]
    show("comparing")
    straight, provenance = run_diff.read_run(str(root / "straight"))
    interrupted, _ = run_diff.read_run(str(root / "interrupted"))
    straight_inputs, _ = run_diff.effective_inputs([calls])
    interrupted_inputs, lost_inputs = run_diff.effective_inputs(interrupted_calls)
    expected = {**straight, **straight_inputs}
    actual = {**interrupted, **interrupted_inputs}
    for name, leaf in lost_inputs.items():  # The steps that were lost must have had the same inputs, too.
        actual[f"{name}, {LOST_STEP_SUFFIX}"] = leaf
        if name in straight_inputs:
            expected[f"{name}, {LOST_STEP_SUFFIX}"] = straight_inputs[name]
    return Verdict(
        steps=end,
        stopped_at=stop,
        killed_at=kill,
        resumed_from=tuple(calls[0]["steps"][0] for calls in interrupted_calls[1:]),
        leaves=len(expected.keys() | actual.keys()),
        differences=tuple(run_diff.compare(expected, actual)),
        provenance=provenance,
        seconds=time.monotonic() - started,
    )


def format_verdict(verdict: Verdict) -> str:
    """Format the verdict as text for a terminal, with a table of the differences."""
    place = verdict.provenance
    after_stop, after_kill = verdict.resumed_from
    lines = [
        f"Trained {verdict.steps:,} steps without interruption, and {verdict.steps:,} steps interrupted: stopped at "
        f"step {verdict.stopped_at:,}, resumed from step {after_stop:,}, killed at step {verdict.killed_at:,}, resumed "
        f"from step {after_kill:,}.",
        f"To repeat this: --steps={verdict.steps} --interrupt_at={verdict.stopped_at},{verdict.killed_at}",
        f"On {place['machine']}, {place['cpu_count']} cores, {place['device_count']} x {place['device']} "
        f"({place['backend']}), jax {place['jax']}, jaxlib {place['jaxlib']}. The result holds only for these.",
        "",
    ]
    if verdict.differences:
        rows = [
            (
                difference.leaf,
                difference.elements,
                difference.differing,
                difference.remark or f"{difference.largest:.3g}",
            )
            for difference in verdict.differences
        ]
        lines += [table(rows, header=("leaf", "elements", "differing", "largest difference")), ""]
    lines.append(
        f"{len(verdict.differences):,} of {verdict.leaves:,} leaves differ (parameters, statistics, optimizer state, "
        f"averages, metrics, and inputs of each step). {duration(verdict.seconds)}."
    )
    return "\n".join(lines)


def _choose_interruptions(steps: Sequence[int], requested: tuple[int, int] | None) -> tuple[int, int]:
    """Return the steps at which to stop and to kill.

    Args:
      steps: the steps at which calls of the train step begin, except the first call.
      requested: two of `steps`, in increasing order; None: choose at random.

    Raises:
      UserError: if `requested` is anything else, or if there are fewer than two `steps`.
    """
    if requested:
        stop, kill = requested
        if not (stop < kill and {stop, kill} <= set(steps)):
            raise UserError(
                f"--interrupt_at ({stop},{kill}) must be two increasing steps at which calls of the train step begin. "
                f"Choose from {list(steps)}."
            )
        return stop, kill
    if len(steps) < 2:
        raise UserError("the run has too few calls of the train step to interrupt it twice. Increase --steps.")
    stop, kill = sorted(secrets.SystemRandom().sample(steps, 2))
    return stop, kill


def _run(job: Job, files: str, show: Callable[[str], None]) -> None:
    """Run the job in a new process and show its progress.

    Args:
      job: the job.
      files: path of the files to write, without extension: the job as .json, and the stderr of the process as .log.
      show: called with each progress line.

    Raises:
      UserError: with the error message of the process, if its exit code is not the expected one.
    """
    job_file, log = pathlib.Path(f"{files}.json"), pathlib.Path(f"{files}.log")
    job_file.write_text(job.to_json(), encoding="utf-8")
    package = str(pathlib.Path(resnet_jax.__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    command = [
        sys.executable,
        "-P",
        "-c",
        WORKER_CODE.format(tune="cpu_tuning.tune(); " if cpu_tuning.is_tuned() else ""),
        str(job_file),
    ]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8", errors="replace"
        ) as process,
    ):
        try:
            for line in process.stdout:  # type: ignore[union-attr]  # is a pipe
                if PROGRESS.fullmatch(line.strip()):
                    show(line.strip())
        except BaseException:
            process.kill()  # The run will not be resumed, so there is nothing to save.
            raise
    if process.returncode != (0 if job.kill_at is None else SIGKILL_EXIT_CODE):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no error message"]
        reason = lines[-1].removeprefix("error: ")
        raise UserError(f"a run ended with exit code {process.returncode}: {reason}")
