"""Worker process of `verify_resume`: train, record the inputs of each step, and stop or be killed at a given step.

The only argument of the process is the path of a file with the job, as `Job.to_json` writes it.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import signal
import sys

import numpy as np

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.runtime import compilation_cache, library_messages, parallel
from resnet_jax.terminal import print_if_possible
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.federated_experiment import FederatedExperiment
from resnet_jax.training.train import train
from resnet_jax.training.train_step import Inputs

MIN_STEPS, MAX_STEPS = 12, 60  # bounds of `_default_steps`
MIN_CALLS = 4  # minimum number of full calls of the train step; takes precedence over MAX_STEPS
PROGRESS = re.compile(r"step [\d,]+ of [\d,]+")  # progress lines, among the other output of the run


@dataclasses.dataclass(frozen=True)
class Job:
    """The job of a worker process.

    Attributes:
      config: settings of the run, as JSON.
      workdir: the run directory.
      notes: path of a file to write: per call of the train step, one line of JSON from `describe_inputs`.
      stop_at: the number of steps after which the run saves and stops, as after Ctrl-C. If a call takes several steps,
        the run stops after the call that reaches this number. None: the result of `_default_steps`.
      kill_at: the number of steps after which the process gets SIGKILL, before the next call. None: it is not killed.
    """

    config: str
    workdir: str
    notes: str
    stop_at: int | None = None
    kill_at: int | None = None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def watched_run(job: Job) -> None:
    """Train until the job stops or kills the run, or until the run ends."""

    def observe(experiment: Experiment, step: int, steps: int, inputs: Inputs) -> None:
        if job.kill_at is not None and step >= job.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        stop_at = min(job.stop_at or _default_steps(experiment), experiment.total_steps)
        is_federated = isinstance(experiment, FederatedExperiment)
        if is_federated and step == stop_at:  # A stop in the middle of a round abandons the round.
            signal.raise_signal(signal.SIGINT)
            return
        with pathlib.Path(job.notes).open("a", encoding="utf-8") as notes:
            notes.write(json.dumps(describe_inputs(experiment, range(step, step + steps))) + "\n")
        print(f"step {step + steps:,} of {stop_at:,}", flush=True)  # noqa: T201  Fails if the parent process has ended.
        if step + steps >= stop_at and not is_federated:
            signal.raise_signal(signal.SIGINT)

    try:
        train(settings.from_json(job.config), job.workdir, observe=observe)
    except KeyboardInterrupt:
        return


def main() -> int:
    library_messages.silence()
    compilation_cache.enable()
    try:
        watched_run(Job(**json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))))
    except UserError as error:
        print_if_possible(f"error: {error}", sys.stderr)
        return 2
    return 0


def _default_steps(experiment: Experiment) -> int:
    """Return the number of steps of a run whose last step is not given: two epochs and one step, within limits.

    Without the additional step, the stop would cut short the evaluation after the second epoch.
    """
    steps = min(max(2 * experiment.feed.steps_per_epoch + 1, MIN_STEPS), MAX_STEPS)
    return max(steps, MIN_CALLS * experiment.config.steps_per_call)


def describe_inputs(experiment: Experiment, steps: range) -> dict[str, list]:
    """Describe the inputs of a call of the train step.

    Returns:
      `steps` [steps]: the numbers of the steps, from 0.
      `examples` [steps, batch]: the positions of the examples in the training split.
      `images` [steps, batch]: digests of the augmented images with their labels.
    """
    batches = [parallel.fetch(experiment.batch_at(step)) for step in steps]
    return {
        "steps": list(steps),
        "examples": [experiment.feed.positions(step).tolist() for step in steps],
        "images": [[_digest(*example) for example in zip(*batch, strict=True)] for batch in batches],
    }


def _digest(image: np.ndarray, label: np.ndarray) -> str:
    return hashlib.blake2b(image.tobytes() + label.tobytes(), digest_size=8).hexdigest()
