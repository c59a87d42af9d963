"""Analyze a step whose loss or gradient norm is not finite, and save it in the run directory.

The files are in the `nan/` subdirectory:

nan.json             the number of the step, the name of the first value in the step that is not finite, and the size of
                     the images with progressive resizing
state.safetensors    the state before the step
batch.safetensors    the augmented images and the labels of the step

A run stores nothing in advance for this purpose, so healthy runs lose neither time nor memory. Instead, the steps since
the newest checkpoint are replayed. Because a run is a function of its settings and data, this reproduces the state
before the step.
"""

import json
import logging
from collections.abc import Callable, Mapping
from signal import Signals

import jax
import numpy as np

from resnet_jax.errors import UserError, first_line, program
from resnet_jax.pretrained import weight_files
from resnet_jax.runtime import parallel, provenance
from resnet_jax.terminal import Reporter
from resnet_jax.training.experiment import Call, Experiment
from resnet_jax.training.interruption import EXCEPTION_BY_SIGNAL
from resnet_jax.training.metrics_logger import NonFiniteMetric
from resnet_jax.training.nan_triage import first_not_finite, triage
from resnet_jax.training.state import TrainState
from resnet_jax.training.train_step import TrainStep, compile_train_steps
from resnet_jax.workdir.checkpoints import Checkpoints
from resnet_jax.workdir.workdir import WorkDir

FOLDER = "nan"
REMEDY = (
    "Earlier checkpoints are intact and can still be evaluated. To train further, start a new --workdir with a lower "
    "optimizer.learning_rate, more schedule.warmup_epochs, or optimizer.grad_clip set."
)

logger = logging.getLogger(__name__)


def capture(
    error: NonFiniteMetric,
    experiment: Experiment,
    directory: WorkDir,
    checkpoints: Checkpoints,
    train_steps: Mapping[Call, TrainStep],
    reporter: Reporter,
    received_signal: Callable[[], Signals | None],
) -> UserError:
    """Replay the run up to the step with a non-finite metric, find the first non-finite value, and save the step.

    Args:
      error: names the metric and the step.
      experiment, directory, checkpoints: those of the run.
      train_steps: the train step, compiled for some calls.
      reporter: shows progress.
      received_signal: returns the signal that has asked the run to stop, or None.

    Returns:
      The error for the user: what happened, where the step is saved, and what to try.

    Raises:
      KeyboardInterrupt, Preempted: if a signal to stop arrives while the steps are replayed.
    """
    logger.info(f"At step {error.step:,} {error.what}. Replaying the preceding steps to find out where ...")
    try:
        state = state_before(error.step, experiment, checkpoints, train_steps, reporter, received_signal)
        batch = parallel.fetch(experiment.batch_at(error.step))
        images, labels = parallel.place(batch, parallel.batch_sharded(experiment.mesh))
        image_size = experiment.call(error.step).image_size
        first = first_not_finite(triage(experiment.resizing_to(image_size), state, images, labels))
        _save(directory, error, str(first) if first else None, image_size, experiment, parallel.fetch(state), batch)
    except (UserError, OSError, jax.errors.JaxRuntimeError) as problem:  # JAX raises its error if memory runs out.
        return UserError(f"{error}; the step could not be analyzed ({first_line(problem)}). {REMEDY}")
    where = (
        f"The first non-finite value of the step is in {first}"
        if first
        else "When the step was replayed, all its values were finite, so whether it fails depends on rounding"
    )
    return UserError(
        f"{error}. {where}. The state before this step and its batch are in {directory.path / FOLDER}. "
        f"Examine them with: {program()} debug_nan --workdir={directory.path}. {REMEDY}"
    )


def state_before(
    step: int,
    experiment: Experiment,
    checkpoints: Checkpoints,
    train_steps: Mapping[Call, TrainStep],
    reporter: Reporter,
    received_signal: Callable[[], Signals | None],
) -> TrainState:
    """Replay the steps since the newest checkpoint, or since the beginning, and return the state before `step`.

    `step` must not precede the newest checkpoint. The result equals the state in the run bit for bit if the device is
    deterministic, with two exceptions. If `step` lies within a call of several steps, the steps of this call before
    `step` are compiled as a shorter call, and their results may differ in the last bits. With `ema_recalibrate_steps`,
    the averaged batch statistics differ, because the replay does not recalibrate them.

    Raises:
      KeyboardInterrupt, Preempted: if a signal to stop arrives.
      UserError: if no checkpoint can be restored.
    """
    checkpoints.wait()
    start = 0
    if checkpoints.latest_step() is None:
        state = experiment.initial_state()
    else:
        start, state, _ = experiment.restore_newest(checkpoints)
    steps_taken = start
    pace = parallel.Pace()
    show_progress = reporter.counter("steps replayed")
    while steps_taken < step:
        signum = received_signal()
        if signum is not None:
            raise EXCEPTION_BY_SIGNAL[signum]
        call = experiment.call(steps_taken)
        call = call._replace(num_steps=min(call.num_steps, step - steps_taken))
        if call not in train_steps:
            train_steps = {**train_steps, **compile_train_steps(experiment, [call])}
        state, metrics = train_steps[call](state, experiment.feed.inputs(steps_taken))
        pace(metrics)
        steps_taken += call.num_steps
        show_progress(steps_taken - start, step - start)
    return state


def _save(
    directory: WorkDir,
    error: NonFiniteMetric,
    first: str | None,
    image_size: int | None,
    experiment: Experiment,
    state: TrainState,
    batch: tuple[np.ndarray, np.ndarray],
) -> None:
    """Write the three files, nan.json last, so that an incomplete set of files is never taken for a complete one."""
    record = {
        "step": error.step,
        "message": str(error),
        "first_not_finite": first,
        "image_size": image_size,
        "class_weights": None if experiment.class_weights is None else experiment.class_weights.tolist(),
        "provenance": provenance.describe(),
    }
    leaves, _ = jax.tree_util.tree_flatten_with_path(state.checkpoint_items)
    arrays = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    images, labels = batch
    directory.remove(f"{FOLDER}/nan.json")
    directory.write(f"{FOLDER}/state.safetensors", weight_files.safetensors_bytes(arrays))
    directory.write(f"{FOLDER}/batch.safetensors", weight_files.safetensors_bytes({"images": images, "labels": labels}))
    directory.write(f"{FOLDER}/nan.json", json.dumps(record, indent=2) + "\n")
