"""Learning-rate range test: train with a rising learning rate, and see at which rates the loss falls and explodes.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3. The rate rises geometrically, as in
fast.ai's `lr_find`, so that every decade has equally many steps.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from resnet_jax.data.sources import Source
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.training import experiment as experiments
from resnet_jax.training import optimizer
from resnet_jax.training.train_step import SINGLE_STEP, compile_train_steps

SMOOTHED_FRACTION = 0.05  # of the steps: the width of the window in which the loss is averaged
NOISE = 0.1  # A fall of the smoothed loss by less than this fraction of the whole fall may be noise.
SPIKE = 0.5  # A rise of the smoothed loss by more than this fraction of its fall so far ends the descent.
EXPLODED = 2.0  # The test ends once the mean of the last losses exceeds that of the first ones by this factor.
MAX_EPOCHS = 10**5  # more than a test takes


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """The result of a range test.

    Attributes:
      learning_rates: float64 [steps], rising.
      losses: float64 [steps], the training loss of each step, before its update; finite.
      smoothed: float64 [steps], the mean of the losses in a window around each step.
      exploded: whether the loss exploded, or stopped being finite, before the highest rate was reached.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    exploded: bool

    @property
    def _descent(self) -> int:
        """The number of steps until the smoothed loss has risen back by half of its fall, or all steps.

        A run may recover from such a rise, but its loss is then low because of the steps before, and falls fast only
        because it had risen.
        """
        lowest_so_far = np.minimum.accumulate(self.smoothed)
        fall = self.smoothed[0] - lowest_so_far
        has_fallen = fall > NOISE * fall[-1]
        spikes = np.flatnonzero(has_fallen & (self.smoothed - lowest_so_far > SPIKE * fall))
        return int(spikes[0]) if len(spikes) else len(self.smoothed)

    @property
    def lowest(self) -> float:
        """The learning rate at which the smoothed loss is lowest, before it first rises back by half of its fall."""
        return float(self.learning_rates[np.argmin(self.smoothed[: self._descent])])

    @property
    def steepest(self) -> float:
        """The learning rate, up to `lowest`, at which the lowest smoothed loss so far falls fastest per decade."""
        end = max(2, int(np.argmin(self.smoothed[: self._descent])) + 1)
        lowest_so_far = np.minimum.accumulate(self.smoothed[:end])
        slopes = np.gradient(lowest_so_far, np.log10(self.learning_rates[:end]))
        return float(self.learning_rates[np.argmin(slopes)])

    @property
    def suggested(self) -> tuple[float, float]:
        """The range of rates to try: from a tenth of `lowest`, for a constant rate, to `lowest`.

        The upper end is meant as the peak of a schedule that falls to zero, because such a schedule trains mostly at
        lower rates.
        """
        return self.lowest / 10, self.lowest


def run_range_test(
    take_step: Callable[[int], float], learning_rates: np.ndarray, show_progress: Callable[[int, int], None]
) -> RangeTest:
    """Take steps with rising learning rates until the last of them, or until the loss explodes.

    Args:
      take_step: takes a step, given its number, and returns the loss before the update.
      learning_rates: float64 [steps], the learning rate of each step, which `take_step` uses.
      show_progress: called with the number of steps done and their total.

    Raises:
      UserError: if the loss explodes within the first tenth of the steps, so that there is nothing to see.

    Example:
      >>> rates = np.geomspace(0.01, 10, 100)
      >>> losses = np.where(rates < 1, 1 - rates / 2, rates)  # falls, and explodes at a rate of 1
      >>> test = run_range_test(lambda step: losses[step], rates, lambda done, total: None)
      >>> test.exploded, 0.5 < test.lowest < 1.5
      (True, True)
    """
    window = max(1, round(SMOOTHED_FRACTION * len(learning_rates)))
    losses: list[float] = []
    exploded = False
    for step in range(len(learning_rates)):
        loss = take_step(step)
        if not math.isfinite(loss):
            exploded = True
            break
        losses.append(loss)
        show_progress(step + 1, len(learning_rates))
        first = np.mean(losses[:window])
        # A loss that may be negative, as in pre-training, explodes if it rises by 1.
        if np.mean(losses[-window:]) > (EXPLODED * first if first > 0.5 else first + 1):
            exploded = True
            break
    if len(losses) < 2 * window:
        raise UserError(
            f"the loss exploded after {len(losses)} steps, at a learning rate of {learning_rates[len(losses)]:.1e}. "
            "Lower --min_rate."
        )
    return RangeTest(learning_rates[: len(losses)], np.array(losses), smooth(np.array(losses), window), exploded)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of the values in a window around each of them, which is cut off at both ends.

    Example:
      >>> smooth(np.array([1.0, 2.0, 6.0, 4.0]), window=3).tolist()
      [1.5, 3.0, 4.0, 5.0]
    """
    kernel = np.ones(2 * (window // 2) + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def range_test(
    config: ConfigDict,
    sources: Mapping[str, Source],
    reporter: Reporter,
    min_rate: float,
    max_rate: float,
    steps: int,
) -> RangeTest:
    """Run the range test of a recipe, from its initial weights and with its own optimizer, data and augmentation.

    Its schedule and its progressive resizing play no part. The result depends on `config.seed` alone.

    Args:
      config: settings, made from `resnet_jax.config.default()`.
      sources: the data.
      reporter: shows the progress, and counts the images that cannot be read.
      min_rate, max_rate: the first and the last learning rate.
      steps: the number of steps.

    Raises:
      UserError: if the settings do not work, or as `run_range_test` does.
    """
    config = config.copy_and_resolve_references()
    config.num_epochs = MAX_EPOCHS
    config.steps_per_call = 1
    config.schedule.name, config.schedule.warmup_epochs = "constant", 0.0
    config.federated.partition = None  # The rate is that of a run on all examples.
    mesh = parallel.make_mesh()
    experiments.check(config, mesh)
    experiment = experiments.build(config, mesh, sources, reporter)

    learning_rates = np.geomspace(min_rate, max_rate, steps)
    schedule = _schedule(learning_rates)
    experiment = dataclasses.replace(
        experiment,
        schedule=schedule,
        optimizer=optimizer.make_optimizer(experiment.config, schedule, experiment.model.stage_sizes),
    )
    state = experiment.initial_state()
    train_step = compile_train_steps(experiment, [SINGLE_STEP], state)[SINGLE_STEP]

    def take_step(step: int) -> float:
        nonlocal state
        state, metrics = train_step(state, experiment.feed.inputs(step))
        return float(parallel.fetch(metrics["loss"])[0])

    try:
        return run_range_test(take_step, learning_rates, reporter.counter("range test, steps"))
    finally:
        experiment.feed.close()


def _schedule(learning_rates: np.ndarray) -> optax.Schedule:
    """Return a schedule that gives each step its learning rate."""
    rates = jnp.asarray(learning_rates, jnp.float32)
    return lambda step: rates[step]


def format_range_test(test: RangeTest) -> str:
    """Format a result as text for a terminal."""
    low, high = test.suggested
    lines = [
        f"Suggested learning rate: {low:.2g} to {high:.2g}.",
        f"  {high:.2g}: where the loss is lowest; as the peak of a schedule that falls to zero",
        f"  {low:.2g}: a tenth of it; as a constant rate",
        f"The loss falls fastest at {test.steepest:.2g}.",
    ]
    last = test.learning_rates[-1]
    if test.exploded:
        lines.append(f"The loss exploded at a learning rate of {last:.2g}.")
    else:
        lines.append(f"The loss did not explode up to {last:.2g}. A higher --max_rate would show more.")
    return "\n".join(lines)
