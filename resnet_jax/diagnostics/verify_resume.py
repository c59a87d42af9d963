"""The proof that a run which is interrupted goes on as if nothing had happened, or the list of what differs.

A run is taken to some step in one process. The same run is taken there in three: the first is stopped as by Ctrl-C at a
random step, the second goes on and gets SIGKILL at a random later one, the third does again what was lost and goes on.
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

LOST = "before SIGKILL"  # steps that are done twice
KILLED = -signal.SIGKILL  # the exit code of a process that got it
START = (
    "import sys; from resnet_jax.runtime import cpu_tuning; {tune}"
    "from resnet_jax.diagnostics.resume_worker import main; sys.exit(main())"
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came out.

    Attributes:
      steps: that both runs took.
      stopped_at: the step at which the interrupted run was stopped, with everything saved.
      killed_at: the step before which it got SIGKILL.
      resumed_from: the steps from which it went on after the one and after the other.
      leaves: how many were compared.
      differences: those that differ.
      provenance: where; elsewhere nothing is promised.
      seconds: that it took.
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
    """Trains what `config` describes straight and interrupted, in fresh processes on one host, and compares.

    Both end when `steps` have been taken, where calls take several with the one that takes the last of these, or when
    the run that `config` describes ends.

    Args:
      config: settings, made from `resnet_jax.config.default()`.
      directory: where all of it is left: the run directories `straight` and `interrupted`, and notes and logs of the
        four processes.
      steps: how many to take; None: two epochs and one, but 12 to 60, and at least four calls.
      interrupt_at: where to stop and where to kill; None: drawn anew each time.
      show: takes a line on how far it has come.

    Raises:
      UserError: if there is nothing between whose steps to stop, or for what the runs themselves complain about.
    """
    started, root = time.monotonic(), pathlib.Path(directory)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {root} ({error.strerror}): choose another --workdir") from error
    if any((root / name).exists() for name in ("straight", "interrupted")):
        raise UserError(f"{root} holds runs already, and these must begin anew: choose another --workdir")
    configured = settings.to_json(config.copy_and_resolve_references())

    def process(name: str, number: int, stop_at: int | None, kill_at: int | None = None) -> list[dict]:
        files = str(root / f"{name}-{number}")
        job = Job(configured, str(root / name), f"{files}.notes", stop_at, kill_at)
        _run(job, files, lambda line: show(f"{name} run, process {number}: {line}"))
        return [json.loads(line) for line in pathlib.Path(job.notes).read_text().splitlines()]

    calls = process("straight", 1, steps)
    end = calls[-1]["steps"][-1] + 1
    stop, kill = _interruptions([call["steps"][0] for call in calls[1:]], interrupt_at)
    parts = [
        process("interrupted", 1, stop),
        process("interrupted", 2, end, kill),
        process("interrupted", 3, end),
    ]
    show("comparing")
    straight, provenance = run_diff.read_run(str(root / "straight"))
    interrupted, _ = run_diff.read_run(str(root / "interrupted"))
    given, _ = run_diff.effective_inputs([calls])
    given_to_parts, in_vain = run_diff.effective_inputs(parts)
    expected = {**straight, **given, **{f"{name}, {LOST}": given[name] for name in in_vain if name in given}}
    found = {**interrupted, **given_to_parts, **{f"{name}, {LOST}": leaf for name, leaf in in_vain.items()}}
    return Verdict(
        steps=end,
        stopped_at=stop,
        killed_at=kill,
        resumed_from=tuple(part[0]["steps"][0] for part in parts[1:]),
        leaves=len(expected.keys() | found.keys()),
        differences=tuple(run_diff.compare(expected, found)),
        provenance=provenance,
        seconds=time.monotonic() - started,
    )


def report(verdict: Verdict) -> str:
    """Format the verdict as text for a terminal, with a table of the differences."""
    place, (again, once_more) = verdict.provenance, verdict.resumed_from
    lines = [
        f"{verdict.steps:,} steps straight, and {verdict.steps:,} steps interrupted: stopped at step "
        f"{verdict.stopped_at:,}, went on from {again:,}, killed before step {verdict.killed_at:,}, went on from "
        f"{once_more:,} (again: --steps={verdict.steps} --interrupt_at={verdict.stopped_at},{verdict.killed_at}).",
        f"On {place['machine']}, {place['cpu_count']} cores, {place['device_count']} x {place['device']} "
        f"({place['backend']}), jax {place['jax']}, jaxlib {place['jaxlib']}: the promise holds for this alone.",
        "",
    ]
    if verdict.differences:
        rows = [
            (each.leaf, each.elements, each.differing, each.remark or f"{each.largest:.3g}")
            for each in verdict.differences
        ]
        lines += [table(rows, header=("leaf", "elements", "differing", "largest difference")), ""]
    lines.append(
        f"{len(verdict.differences):,} of {verdict.leaves:,} leaves differ (parameters, statistics, optimizer state, "
        f"averages, metrics, and what each step was given). {duration(verdict.seconds)}."
    )
    return "\n".join(lines)


def _interruptions(steps: Sequence[int], wanted: tuple[int, int] | None) -> tuple[int, int]:
    """Two of these steps, between which calls of the train step begin and end: those wanted, or any."""
    if wanted:
        stop, kill = wanted
        if not (stop < kill and {stop, kill} <= set(steps)):
            raise UserError(f"--interrupt_at={stop},{kill} must be two steps, in their order, of {list(steps)}")
        return stop, kill
    if len(steps) < 2:
        raise UserError("between so few calls of the train step a run cannot be interrupted twice: take more --steps")
    stop, kill = sorted(secrets.SystemRandom().sample(steps, 2))
    return stop, kill


def _run(job: Job, files: str, show: Callable[[str], None]) -> None:
    """Run the job in a new process and show its progress. Writes `files`.json, the job, and `files`.log.

    Raises:
      UserError: if the process does not end as it should, with its own words.
    """
    job_file, log = pathlib.Path(f"{files}.json"), pathlib.Path(f"{files}.log")
    job_file.write_text(job.to_json())
    package = str(pathlib.Path(resnet_jax.__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    command = [
        sys.executable,
        "-P",
        "-c",
        START.format(tune="cpu_tuning.tune(); " if cpu_tuning.is_tuned() else ""),
        str(job_file),
    ]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            for line in process.stdout:  # type: ignore[union-attr]  # a pipe, as asked for above
                if PROGRESS.fullmatch(line.strip()):
                    show(line.strip())
        except BaseException:
            process.kill()  # Ctrl-C twice, so to say: nobody will go on with this run.
            raise
    if process.returncode != (0 if job.kill_at is None else KILLED):
        words = log.read_text().strip().splitlines() or ["it said nothing"]
        reason = words[-1].removeprefix("error: ")
        raise UserError(f"a run to be compared ended with exit code {process.returncode}: {reason}")
