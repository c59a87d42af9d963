"""The state of a run at a step: from its checkpoint, or from the steps that lead there, taken again."""

from collections.abc import Callable, Mapping
from signal import Signals

import numpy as np

from resnet_jax.runtime import parallel
from resnet_jax.terminal import ProgressLine
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.interruption import EXCEPTIONS
from resnet_jax.training.state import TrainState
from resnet_jax.training.train_step import TrainStep
from resnet_jax.workdir.workdir import WorkDir


def restore_newest(experiment: Experiment, directory: WorkDir, progress: ProgressLine) -> tuple[int, TrainState, dict]:
    """The newest checkpoint that is intact, of at least one: its step, its state on all devices, its JSON values."""
    step, parts, host = directory.checkpoints.restore_newest(experiment.abstract_state().parts, progress.warn)
    step_on_devices = parallel.place(np.int32(step), parallel.replicated(experiment.mesh))
    return step, TrainState(step=step_on_devices, **parts), host


def state_before(
    step: int,
    experiment: Experiment,
    directory: WorkDir,
    calls: Mapping[int, TrainStep],
    progress: ProgressLine,
    interrupted: Callable[[], Signals | None],
) -> TrainState:
    """The state that a run had before it took `step`, which is no earlier than its newest checkpoint.

    A run is a function of its settings, so that the same calls lead there again, to the same bits where the device
    computes the same each time. Of the call that `step` lies in, the steps before it are compiled anew: they may differ
    in their last bits.

    Args:
      step: not yet taken.
      setup: the parts of the run.
      directory: its checkpoints.
      calls: its compiled steps, by how many a call takes.
      progress: shows how far it has come.
      interrupted: gives the signal that has asked to stop.

    Raises:
      KeyboardInterrupt, Preempted: if it has.
      UserError: if no checkpoint can be restored.
    """
    directory.checkpoints.wait()
    if directory.checkpoints.latest_step() is None:
        start, state = 0, experiment.initial_state()
    else:
        start, state, _ = restore_newest(experiment, directory, progress)
    done, pace, show = start, parallel.Pace(), progress.counter("steps taken again")
    while done < step:
        if interrupted():
            raise EXCEPTIONS[interrupted()]
        steps = min(experiment.steps_of_call(done), step - done)
        call = calls[steps] if steps in calls else experiment.compile_steps([steps])[steps]
        state, metrics = call(state, experiment.feed.inputs(done))
        pace(metrics)
        done += steps
        show(done - start, step - start)
    return state
