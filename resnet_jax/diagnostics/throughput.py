"""How fast a recipe trains here, and whether its input, the host or the device is what holds it up.

The loop that trains is run, and between parts of it the compiled step is run alone, on the inputs that the loop had
last: what the loop takes longer, the device has stood still.
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
from resnet_jax.training import experiment
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.loop import Loop
from resnet_jax.training.state import TrainState
from resnet_jax.training.train_step import Inputs
from resnet_jax.workdir.workdir import WorkDir

# --- What a device can do at most, for the share of it that a training makes use of.


PEAK_ROUNDS = 10  # of which the quickest counts
SIDE = {"cpu": 2048}  # of the square matrices that are multiplied
SIDE_ELSEWHERE = 8192


@dataclasses.dataclass(frozen=True)
class Peak:
    """flops: floating-point operations a second, of one device; source: whether that was "specified" or "measured"."""

    flops: float
    source: str


def peak_of(device: jax.Device, dtype: str) -> Peak:
    """What the maker of a TPU says, in bfloat16; elsewhere what the quickest product of two large matrices reaches."""
    chip = tpu_topology.chip(device)
    if chip:
        return Peak(chip.peak_flops, "specified")
    side = SIDE.get(device.platform, SIDE_ELSEWHERE)
    matrix = jax.device_put(jnp.ones((side, side), dtype), device)
    multiply = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    return Peak(2 * side**3 / min(_seconds(multiply, matrix) for _ in range(PEAK_ROUNDS)), "measured")


def _seconds(multiply: jax.stages.Compiled, matrix: jax.Array) -> float:
    started = time.perf_counter()
    jax.block_until_ready(multiply(matrix, matrix))
    return time.perf_counter() - started


# --- The time that a loop takes, and that its compiled step takes alone, by turns.


ROUNDS = 7  # and one before them, for warming up
SECONDS_A_ROUND = 3.0  # of the loop, and of the step alone
FEWEST_CALLS = 1 + CALLS_AHEAD  # of the step in each, or the host would not wait for it
SIDE_WORK = ("evaluation", "saving")  # what the loop does besides, and is not counted


class Enough(Exception):
    """Ends the loop: enough has been measured."""


class Stopwatch:
    """Watches a loop, and in turn with it times its compiled step alone, by calls of the same sizes.

    Attributes:
      loop, step, waited: seconds a step in each round, and those of `loop` that were waited for input.
    """

    def __init__(self, show: Callable[[int, int], None]):
        self._show = show
        self._calls: list[int] = []  # of this round: how many steps each takes
        self._calls_a_round: int | None = None
        self._to_pass = 0  # calls before the next round begins
        self.loop: list[float] = []
        self.step: list[float] = []
        self.waited: list[float] = []

    def watch(self, loop: Loop, state: TrainState) -> None:
        """To be called before the loop begins, with a state for the step alone."""
        self._loop, self._state = loop, state

    def __call__(self, experiment: Experiment, step: int, steps: int, inputs: Inputs) -> None:
        """Is called before each call of the step in the loop: see `Loop`."""
        if self._calls and self._round_is_over():
            self._end(inputs)
            # Workers went on while the step ran alone; with what they have ready the loop would look too quick.
            self._calls, self._to_pass = [], experiment.feed.max_prefetched
        if self._to_pass:
            self._to_pass -= 1
            return
        if not self._calls:
            self._begin()
        self._calls.append(steps)

    def _begin(self) -> None:
        jax.block_until_ready(self._loop.state)
        self._spent, self._began = self._loop.timer.seconds_by_phase(), time.perf_counter()

    def _round_is_over(self) -> bool:
        if self._calls_a_round is None:
            long_enough = time.perf_counter() - self._began >= SECONDS_A_ROUND
            return long_enough and len(self._calls) >= FEWEST_CALLS
        return len(self._calls) == self._calls_a_round

    def _end(self, inputs: Inputs) -> None:
        """Notes what the loop took, and then how long its calls take alone."""
        jax.block_until_ready(self._loop.state)
        ended, spent = time.perf_counter(), self._loop.timer.seconds_by_phase()
        aside = sum(spent[purpose] - self._spent[purpose] for purpose in SIDE_WORK)
        for steps in self._calls:
            self._state, _ = self._loop.train_steps[steps](self._state, inputs)
        jax.block_until_ready(self._state)
        alone = time.perf_counter() - ended
        if self._calls_a_round is not None:  # The first round was for warming up.
            taken = sum(self._calls)
            self.loop.append((ended - self._began - aside) / taken)
            self.step.append(alone / taken)
            self.waited.append((spent["input"] - self._spent["input"]) / taken)
        self._calls_a_round = len(self._calls)
        self._show(len(self.loop), ROUNDS)
        if len(self.loop) == ROUNDS:
            raise Enough


HELD_UP = 0.05  # of the time: what waits less is held up by the device alone
ADVICE = {
    "device": "A larger batch may use more of it, and so may --config.model.dtype=bfloat16 where it is made for that.",
    "input": "Try more --config.dataset.num_workers, smaller picture files, or --config.dataset.feed=resident.",
    "host": "Try a larger --config.steps_per_call or batch_size, or more cores, if other processes take them.",
}


@dataclasses.dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
      model, dtype, batch_size, devices, device_kind, feed: of what.
      images_per_second: of the loop, over all devices, without evaluation and saving; the median of `rounds`.
      step_ms: what the compiled step takes alone, in milliseconds.
      flops: of a step, over all devices: a multiply-add is two, and a backward pass twice a forward pass.
      peak: what a device can do.
      utilization: model FLOPs utilization (MFU): the part of it that `images_per_second` makes use of (Chowdhery et al.
        2022, "PaLM", appendix B).
      device: the share of the loop's time in which the compiled step runs.
      input: the share that the loop stands still for the next batch.
      host: the share that all else in the loop adds.
      bottleneck: "device", "input" or "host".
      rounds: how many times loop and step alone were compared.
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
) -> Speed:
    """Trains what `config` describes for some rounds, in a directory that is removed again.

    Args:
      config: settings, made from `resnet_jax.config.default()`.
      sources: the data.
      reporter: shows the progress, and counts the images that cannot be read.

    Raises:
      UserError: as training does.
    """
    mesh, config = parallel.make_mesh(), _endless(config)
    experiment.check(config, mesh)
    parts = experiment.build(config, mesh, sources, reporter)
    checkpoint = parts.config.checkpoint
    with (
        tempfile.TemporaryDirectory() as scratch,
        WorkDir(scratch).open_checkpoints(checkpoint.keep, checkpoint.best_metric) as checkpoints,
        Reporter(active=False) as silent,
    ):
        stopwatch = Stopwatch(reporter.counter("measuring, rounds"))
        loop = Loop(parts, WorkDir(scratch), checkpoints, silent, stopwatch)
        stopwatch.watch(loop, parts.initial_state())
        with contextlib.suppress(Enough):
            loop.run()
    return _summary(parts, stopwatch)


def _endless(config: ConfigDict) -> ConfigDict:
    """The same settings for a run that does nothing but train, and for longer than it is measured."""
    config = config.copy_and_resolve_references()
    config.num_epochs = config.evaluate_every_epochs = config.checkpoint.every_epochs = 10**5
    config.schedule.name, config.checkpoint.every_minutes, config.profile_steps = "constant", math.inf, None
    return config


def _summary(parts: Experiment, measured: Stopwatch) -> Speed:
    config, mesh = parts.config, parts.mesh
    device = mesh.devices.flat[0]
    pictures = jax.ShapeDtypeStruct((1, *parts.feed.image_shape), np.uint8)
    seen = jax.eval_shape(parts.preprocess, pictures).shape[1:]
    flops = 6.0 * config.batch_size * cost(parts.model, seen).multiply_adds
    seconds = statistics.median(measured.loop)
    peak = peak_of(device, config.model.dtype)
    computing = min(1.0, _median_share(measured.step, measured.loop))
    waiting = min(1.0 - computing, _median_share(measured.waited, measured.loop))
    shares = {"input": waiting, "host": 1.0 - computing - waiting}
    slowest = max(shares, key=lambda name: shares[name])
    return Speed(
        model=config.model.name,
        dtype=config.model.dtype,
        batch_size=config.batch_size,
        devices=mesh.size,
        device_kind=device.device_kind,
        feed=config.dataset.feed,
        images_per_second=config.batch_size / seconds,
        step_ms=1e3 * statistics.median(measured.step),
        flops=flops,
        peak=peak,
        utilization=flops / seconds / (mesh.size * peak.flops),
        device=computing,
        **shares,
        bottleneck=slowest if 1.0 - computing > HELD_UP else "device",
        rounds=len(measured.loop),
    )


def _median_share(parts: list[float], wholes: list[float]) -> float:
    return statistics.median(part / whole for part, whole in zip(parts, wholes, strict=True))


def report(speed: Speed) -> str:
    """Tables for people."""
    rows = [
        ("images/s", f"{speed.images_per_second:,.1f}"),
        ("the step alone", f"{speed.step_ms:,.2f} ms"),
        ("its work", f"{speed.flops / 1e9:,.2f} GFLOP"),
        (f"peak of a device, {speed.peak.source}", f"{speed.peak.flops / 1e12:,.3f} TFLOP/s"),
        ("of which is used (MFU)", f"{speed.utilization:.1%}"),
    ]
    shares = [
        ("the device computes", f"{speed.device:.1%}"),
        ("the loop waits for input", f"{speed.input:.1%}"),
        ("the host is at something else", f"{speed.host:.1%}"),
    ]
    parts = [
        f"{speed.model} in {speed.dtype}, {speed.batch_size:,} examples a step on {speed.devices} x "
        f"{speed.device_kind}, {speed.feed}; medians of {speed.rounds} rounds",
        table(rows, header=("speed", "")),
        table(shares, header=("where the time goes", "share")),
        f"Bottleneck: {speed.bottleneck}. {ADVICE[speed.bottleneck]}",
    ]
    return "\n\n".join(parts)
