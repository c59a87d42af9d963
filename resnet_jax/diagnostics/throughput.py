"""Training speed of a recipe on this machine, and its bottleneck: input, host or device.

The real training loop runs in rounds. After each round, the compiled step runs alone, on the last inputs of the loop.
The time by which the loop is slower is the time for which the device was idle.
"""

import contextlib
import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resnet_jax.data.sources import Source
from resnet_jax.models.flops import cost
from resnet_jax.runtime import parallel, tpu_topology
from resnet_jax.runtime.parallel import CALLS_AHEAD
from resnet_jax.terminal import Reporter, table
from resnet_jax.training import experiment as experiments
from resnet_jax.training import pretraining
from resnet_jax.training.experiment import Call, Experiment
from resnet_jax.training.loop import Loop
from resnet_jax.training.state import TrainState
from resnet_jax.training.train_step import Inputs
from resnet_jax.workdir.workdir import WorkDir

# --- Peak speed of a device -------------------------------------------------------------------------------------------

PEAK_ROUNDS = 10  # products that are timed; the fastest one counts
MATRIX_SIZE = {"cpu": 2048}  # rows and columns of the matrices to multiply, by platform
DEFAULT_MATRIX_SIZE = 8192


@dataclasses.dataclass(frozen=True)
class Peak:
    """Peak speed of one device.

    Attributes:
      flops: floating-point operations per second.
      source: "specified" or "measured".
    """

    flops: float
    source: str


def peak_of(device: jax.Device, dtype: str) -> Peak:
    """Return the specified peak of a TPU, in bfloat16. For other devices, time large matrix products in `dtype`."""
    chip = tpu_topology.chip(device)
    if chip:
        return Peak(chip.peak_flops, "specified")
    size = MATRIX_SIZE.get(device.platform, DEFAULT_MATRIX_SIZE)
    matrix = jax.device_put(jnp.ones((size, size), dtype), device)
    multiply = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    return Peak(2 * size**3 / min(_seconds(multiply, matrix) for _ in range(PEAK_ROUNDS)), "measured")


def _seconds(multiply: jax.stages.Compiled, matrix: jax.Array) -> float:
    started = time.perf_counter()
    jax.block_until_ready(multiply(matrix, matrix))
    return time.perf_counter() - started


# --- Timing the loop and its compiled step in turn --------------------------------------------------------------------

ROUNDS = 7  # measured rounds; one more round before them is the warm-up
SECONDS_PER_ROUND = 3.0  # duration of the loop in a round; the step alone adds about as much
MIN_CALLS_PER_ROUND = 1 + CALLS_AHEAD  # With fewer calls of the step, the host would not wait for the devices.
UNCOUNTED_PHASES = ("evaluation", "saving")  # subtracted from the time of the loop


class MeasurementDone(Exception):
    """Ends the loop once enough has been measured."""


class LoopTimer:
    """Times a training loop in rounds, and after each round the same calls of the compiled step alone.

    Args:
      show_progress: called with the number of rounds done and their total.

    Attributes:
      loop_seconds: seconds per step of the loop, by round.
      step_seconds: seconds per step of the compiled step alone, by round.
      input_seconds: seconds per step for which the loop waited for input, by round.
    """

    def __init__(self, show_progress: Callable[[int, int], None]):
        self.loop_seconds: list[float] = []
        self.step_seconds: list[float] = []
        self.input_seconds: list[float] = []
        self._show_progress = show_progress
        self._calls: list[Call] = []  # in this round
        self._calls_per_round: int | None = None  # set at the end of the warm-up round
        self._calls_to_skip = 0  # calls that are not timed before the next round begins

    def watch(self, loop: Loop, state: TrainState) -> None:
        """Set the loop to time, before it starts, and the state on which the step runs alone."""
        self._loop = loop
        self._state = state

    def __call__(self, experiment: Experiment, step: int, steps: int, inputs: Inputs) -> None:
        """Observe a call of the step; the loop calls this before each one (see `Loop`)."""
        if self._calls and self._round_is_complete():
            self._end_round(inputs)
            # While the step ran alone, workers prepared batches. They would make the loop look too fast, so skip them.
            self._calls = []
            self._calls_to_skip = experiment.feed.max_prefetched
        if self._calls_to_skip:
            self._calls_to_skip -= 1
            return
        if not self._calls:
            self._begin_round()
        self._calls.append(experiment.call(step))

    def _begin_round(self) -> None:
        jax.block_until_ready(self._loop.state)
        self._seconds_by_phase = self._loop.timer.seconds_by_phase()
        self._started = time.perf_counter()

    def _round_is_complete(self) -> bool:
        if self._calls_per_round is None:
            long_enough = time.perf_counter() - self._started >= SECONDS_PER_ROUND
            return long_enough and len(self._calls) >= MIN_CALLS_PER_ROUND
        return len(self._calls) == self._calls_per_round

    def _end_round(self, inputs: Inputs) -> None:
        """Record the time of the loop, then run the same calls alone and record their time."""
        jax.block_until_ready(self._loop.state)
        ended = time.perf_counter()
        before, now = self._seconds_by_phase, self._loop.timer.seconds_by_phase()
        uncounted = sum(now[phase] - before[phase] for phase in UNCOUNTED_PHASES)
        for call in self._calls:
            self._state, _ = self._loop.train_steps[call](self._state, inputs)
        jax.block_until_ready(self._state)
        alone = time.perf_counter() - ended
        if self._calls_per_round is not None:  # The first round was the warm-up.
            num_steps = sum(call.num_steps for call in self._calls)
            self.loop_seconds.append((ended - self._started - uncounted) / num_steps)
            self.step_seconds.append(alone / num_steps)
            self.input_seconds.append((now["input"] - before["input"]) / num_steps)
        self._calls_per_round = len(self._calls)
        self._show_progress(len(self.loop_seconds), ROUNDS)
        if len(self.loop_seconds) == ROUNDS:
            raise MeasurementDone


# --- Summary ----------------------------------------------------------------------------------------------------------

MAX_IDLE = 0.05  # If the device is idle for a smaller fraction of the time, the device is the bottleneck.
ADVICE = {
    "device": "A larger batch may use the device better. So may --config.model.dtype=bfloat16, if it is faster there.",
    "input": "Try more --config.dataset.num_workers, smaller image files, or --config.dataset.feed=resident.",
    "host": "Try a larger --config.steps_per_call or batch_size. If other processes use CPU cores, free some.",
}


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Measured training speed.

    Attributes:
      model, dtype, batch_size, devices, device_kind, feed: what was measured; `devices` is the number of devices.
      images_per_second: speed of the loop over all devices, without evaluation and saving; the median over the rounds.
      step_ms: milliseconds per step of the compiled step alone; the median over the rounds.
      flops: floating-point operations per step, over all devices. A multiply-add counts as two operations, and a
        backward pass as twice a forward pass.
      peak: peak speed of one device.
      utilization: model FLOPs utilization (MFU), the fraction of the peak that `images_per_second` uses (Chowdhery et
        al. 2022, "PaLM", appendix B).
      device: fraction of the loop's time in which the compiled step runs.
      input: fraction of the loop's time in which it waits for the next batch.
      host: fraction of the loop's time that everything else takes.
      bottleneck: "device", "input" or "host".
      rounds: how many rounds were measured.
    """

    model: str
    dtype: str
    batch_size: int
    devices: int
    device_kind: str
    feed: str
    images_per_second: float
    step_ms: float
    flops: float
    peak: Peak
    utilization: float
    device: float
    input: float
    host: float
    bottleneck: str
    rounds: int


def measure(
    config: ConfigDict,
    sources: Mapping[str, Source],
    reporter: Reporter,
) -> Throughput:
    """Measure the speed of training with `config` over `ROUNDS` rounds, in a temporary directory.

    Args:
      config: settings, made from `resnet_jax.config.default()`.
      sources: the data.
      reporter: shows the progress, and counts the images that cannot be read.

    Raises:
      UserError: if training raises it.
    """
    mesh = parallel.make_mesh()
    config = _endless(config)
    experiments.check(config, mesh)
    experiment = experiments.build(config, mesh, sources, reporter)
    checkpoint = experiment.config.checkpoint
    with (
        tempfile.TemporaryDirectory() as scratch,
        WorkDir(scratch).open_checkpoints(checkpoint.keep, checkpoint.best_metric) as checkpoints,
        Reporter(active=False) as silent,
    ):
        timer = LoopTimer(reporter.counter("measuring, rounds"))
        loop = Loop(experiment, WorkDir(scratch), checkpoints, silent, timer)
        timer.watch(loop, experiment.initial_state())
        with contextlib.suppress(MeasurementDone):
            loop.run()
    return _summarize(experiment, timer)


def _endless(config: ConfigDict) -> ConfigDict:
    """Return the settings for a run that only trains, for longer than the measurement takes."""
    config = config.copy_and_resolve_references()
    config.num_epochs = config.evaluate_every_epochs = config.checkpoint.every_epochs = 10**5
    config.schedule.name = "constant"
    config.optimizer.learning_rate = 1e-9  # The speed does not depend on it, and so long a run might diverge.
    config.checkpoint.every_minutes = math.inf
    config.profile_steps = None
    config.augment.progressive_resizing = ()  # The speed is that of full-sized images.
    config.federated.partition = None  # The client of a federated run takes the same steps.
    return config


def _summarize(experiment: Experiment, timer: LoopTimer) -> Throughput:
    config, mesh = experiment.config, experiment.mesh
    device = mesh.devices.flat[0]
    image = jax.ShapeDtypeStruct((1, *experiment.feed.image_shape), np.uint8)
    preprocessed_shape = jax.eval_shape(experiment.preprocess, image).shape[1:]
    multiply_adds = cost(experiment.model, preprocessed_shape).multiply_adds
    flops = 6.0 * config.batch_size * pretraining.passes(config.pretrain) * multiply_adds
    seconds = statistics.median(timer.loop_seconds)
    peak = peak_of(device, config.model.dtype)
    computing, waiting, other = shares(timer.loop_seconds, timer.step_seconds, timer.input_seconds)
    return Throughput(
        model=config.model.name,
        dtype=config.model.dtype,
        batch_size=config.batch_size,
        devices=mesh.size,
        device_kind=device.device_kind,
        feed=config.dataset.feed,
        images_per_second=config.batch_size / seconds,
        step_ms=1e3 * statistics.median(timer.step_seconds),
        flops=flops,
        peak=peak,
        utilization=flops / seconds / (mesh.size * peak.flops),
        device=computing,
        input=waiting,
        host=other,
        bottleneck=bottleneck_of(computing, waiting, other),
        rounds=len(timer.loop_seconds),
    )


def shares(
    loop_seconds: list[float], step_seconds: list[float], input_seconds: list[float]
) -> tuple[float, float, float]:
    """Return the fractions of the loop's time in which it computes, waits for input, and does other work.

    Args:
      loop_seconds, step_seconds, input_seconds: as `LoopTimer` measures them, by round.

    Example:
      >>> shares([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5])
      (0.5, 0.25, 0.25)
    """
    computing = min(1.0, _median_ratio(step_seconds, loop_seconds))
    waiting = min(1.0 - computing, _median_ratio(input_seconds, loop_seconds))
    return computing, waiting, 1.0 - computing - waiting


def bottleneck_of(computing: float, waiting: float, other: float) -> str:
    """Return "device", "input" or "host", given the three `shares`.

    Example:
      >>> bottleneck_of(0.96, 0.04, 0.0), bottleneck_of(0.9, 0.06, 0.04), bottleneck_of(0.9, 0.04, 0.06)
      ('device', 'input', 'host')
    """
    if 1.0 - computing <= MAX_IDLE:
        return "device"
    return "input" if waiting >= other else "host"


def _median_ratio(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def format_throughput(measured: Throughput) -> str:
    """Format a measurement as tables for a terminal."""
    rows = [
        ("images/s", f"{measured.images_per_second:,.1f}"),
        ("step alone", f"{measured.step_ms:,.2f} ms"),
        ("work per step", f"{measured.flops / 1e9:,.2f} GFLOP"),
        (f"peak of a device ({measured.peak.source})", f"{measured.peak.flops / 1e12:,.3f} TFLOP/s"),
        ("used fraction of the peak (MFU)", f"{measured.utilization:.1%}"),
    ]
    shares = [
        ("the device computes", f"{measured.device:.1%}"),
        ("the loop waits for input", f"{measured.input:.1%}"),
        ("the host does other work", f"{measured.host:.1%}"),
    ]
    sections = [
        f"{measured.model} in {measured.dtype}, {measured.batch_size:,} images per step on {measured.devices} x "
        f"{measured.device_kind}, {measured.feed}; medians of {measured.rounds} rounds",
        table(rows, header=("speed", "")),
        table(shares, header=("where the time goes", "fraction")),
        f"Bottleneck: {measured.bottleneck}. {ADVICE[measured.bottleneck]}",
    ]
    return "\n\n".join(sections)
