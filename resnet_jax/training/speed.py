"""How fast a recipe trains here, and whether its input, the host or the device is what holds it up.

The loop that trains is run, and between parts of it the compiled step is run alone, on the inputs that the loop had
last: what the loop takes longer, the device has stood still.
"""

import contextlib
import dataclasses
import math
import statistics
import tempfile
from collections.abc import Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_jax import parallel
from resnet_jax.data.sources import Source
from resnet_jax.data.unreadable import UnreadablePictures
from resnet_jax.models.cost import cost
from resnet_jax.terminal import ProgressLine, table
from resnet_jax.training import setup
from resnet_jax.training.loop import Loop
from resnet_jax.training.parts import Setup
from resnet_jax.training.peak import Peak, peak_of
from resnet_jax.training.stopwatch import Enough, Stopwatch
from resnet_jax.workdir import WorkDir

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
    unreadable: UnreadablePictures,
    progress: ProgressLine,
) -> Speed:
    """Trains what `config` describes for some rounds, in a directory that is removed again.

    Args:
      config: settings, made from `resnet_jax.config.default()`.
      sources: the data.
      unreadable: is told which pictures cannot be read.
      progress: shows how far it has come.

    Raises:
      UserError: as training does.
    """
    mesh, config = parallel.make_mesh(), _endless(config)
    setup.check(config, mesh)
    reading = progress.counter("reading training examples")
    parts = setup.prepare(config, mesh, sources, unreadable, reading, progress.print)
    with tempfile.TemporaryDirectory() as scratch, WorkDir(scratch) as directory:
        directory.open_checkpoints(parts.config.checkpoint.keep, parts.config.checkpoint.best_metric)
        stopwatch = Stopwatch(progress.counter("measuring, rounds"))
        loop = Loop(parts, directory, ProgressLine(active=False), stopwatch)
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


def _summary(parts: Setup, measured: Stopwatch) -> Speed:
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
    slowest = max(shares, key=shares.get)
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
