"""A run in a process of its own that notes what each step is given, and ends at a step of one's choice, or is killed.

What it is to do comes as a file, `Job.to_json`, on the command line.
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
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.train import train
from resnet_jax.training.train_step import Inputs

FEWEST_STEPS, MOST_STEPS = 12, 60  # of a run whose end is not given
FEWEST_CALLS = 4
PROGRESS = re.compile(r"step [\d,]+ of [\d,]+")  # a line on stdout that says how far it has come, among the run's own


@dataclasses.dataclass(frozen=True)
class Job:
    """What a process is to do.

    Attributes:
      config: of the run, as JSON.
      workdir: of the run.
      notes: a file to be made, with a line of JSON for each call of the train step, see `note`.
      stop_at: the step at which Ctrl-C is pressed, so to say: the run saves and stops when the call that takes it there
        is done. None: after two epochs or what comes near.
      kill_at: the step before which the process gets SIGKILL. None: it is not killed.
    """

    config: str
    workdir: str
    notes: str
    stop_at: int | None = None
    kill_at: int | None = None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def watched_run(job: Job) -> None:
    """Trains until the job's last step."""

    def observe(experiment: Experiment, step: int, steps: int, inputs: Inputs) -> None:
        if job.kill_at is not None and step >= job.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        stop_at = min(job.stop_at or _some_steps(experiment), experiment.total_steps)
        with pathlib.Path(job.notes).open("a") as notes:
            notes.write(json.dumps(note(experiment, range(step, step + steps), inputs)) + "\n")
        print(f"step {step + steps:,} of {stop_at:,}", flush=True)
        if step + steps >= stop_at:
            signal.raise_signal(signal.SIGINT)

    try:
        train(settings.from_json(job.config), job.workdir, observe=observe)
    except KeyboardInterrupt:
        return


def main() -> int:
    library_messages.silence()
    compilation_cache.enable()
    try:
        watched_run(Job(**json.loads(pathlib.Path(sys.argv[1]).read_text())))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _some_steps(experiment: Experiment) -> int:
    """Two epochs and a step, unless these are few or many, and enough calls of the train step to stop between them.

    With the step, for an evaluation at the very end would be cut short by the stop there.
    """
    steps = min(max(2 * experiment.feed.steps_per_epoch + 1, FEWEST_STEPS), MOST_STEPS)
    return max(steps, FEWEST_CALLS * experiment.config.steps_per_call)


def note(experiment: Experiment, steps: range, inputs: Inputs) -> dict[str, list]:
    """Describe the inputs of a call of the train step.

    Returns:
      `steps`, their numbers; `examples` [steps, batch], positions in the training split; `images` [steps, batch],
      digests of the pictures as they are trained on, each with its label.
    """
    batches = [parallel.fetch(experiment.compiled_batch(inputs, step)) for step in steps]
    return {
        "steps": list(steps),
        "examples": [experiment.feed.positions(step).tolist() for step in steps],
        "images": [[_digest(*example) for example in zip(*batch, strict=True)] for batch in batches],
    }


def _digest(image: np.ndarray, label: np.ndarray) -> str:
    return hashlib.blake2b(image.tobytes() + label.tobytes(), digest_size=8).hexdigest()
