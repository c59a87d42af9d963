"""Seconds until training can begin: to create the initial state, and to trace and compile the train step.

    python -m benchmarks.compile_time --models=resnet152,resnetv2_1001:loop
    python -m benchmarks.compile_time --topology=v5e:2x2    # for a TPU that need not be present; requires libtpu

`:loop` sets `model.scan_blocks`, which compiles blocks of identical shape once. The step is that of a run with SGD and
momentum, in float32 and without the CPU tuning of a run, for a batch of 8 images of the size for which the model was
made.

RESULT, 2026-11-22, commit 3e47d1b, 2 cores of an AMD EPYC (a shared machine), Python 3.11, JAX 0.10.2, n = 1, seconds:

    model                initial state   step traced   step compiled
    resnet152                      9.0           3.3            18.8
    resnetv2_1001:loop            10.4           7.9           132.5

resnetv2_1001 has 3,000 arrays, and the step updates each of them separately. In a variant with 30 blocks per stage
instead of 111, 12 of the 22 s of compilation were for the update and the norm of the gradient. Without the loop, the
compilation of resnetv2_1001 had not ended after four minutes, and was stopped.
"""

import itertools
import json
import time

import jax
from absl import app, flags, logging
from jax.experimental import topologies
from jax.sharding import Mesh

from benchmarks import results
from resnet_jax import config as settings
from resnet_jax.data.abstract_dataset import AbstractFeed
from resnet_jax.data.dataset import Dataset
from resnet_jax.models.variants import VARIANTS
from resnet_jax.runtime import parallel
from resnet_jax.terminal import table
from resnet_jax.training import experiment as experiments
from resnet_jax.training.train_step import make_train_step

MODELS = flags.DEFINE_list(
    "models",
    ["resnet50", "resnet152", "resnet152:loop", "resnetv2_1001:loop"],
    "Names of models. With :loop, blocks of identical shape run in a loop.",
)
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "TPU slice to compile for, such as v5e:2x2. Default: the devices of this machine."
)
BATCH_SIZE = 8
STEPS_PER_EPOCH = 100  # for the learning-rate schedule


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    mesh = parallel.make_mesh(_devices()[:1])
    measured = []
    for entry in MODELS.value:
        name, _, loop = entry.partition(":")
        measured.append({"model": name, "loop": bool(loop), **measure(name, bool(loop), mesh)})
        print(json.dumps(measured[-1]), flush=True)
    rows = [tuple(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row.values()) for row in measured]
    print("\n" + table(rows, header=tuple(key.replace("_", " ") for key in measured[0])))
    results.append("compile_time", topology=TOPOLOGY.value, batch_size=BATCH_SIZE, seconds=measured)


def measure(name: str, loop: bool, mesh: Mesh) -> dict[str, float]:
    """Return the seconds to create the initial state, to trace the step and to compile it.

    With --topology the devices do not exist, so no state is created, and its seconds are about 0.
    """
    variant = VARIANTS[name]
    config = settings.default()
    config.model.name = name
    config.model.scan_blocks = loop
    config.batch_size = BATCH_SIZE
    config.dataset.mean, config.dataset.std = (0.5,) * 3, (0.25,) * 3
    image_shape = (variant.image_size, variant.image_size, 3)
    feed = AbstractFeed(image_shape, STEPS_PER_EPOCH * BATCH_SIZE, BATCH_SIZE, mesh)
    class_names = tuple(str(label) for label in range(variant.num_classes))
    experiment = experiments.assemble(config, mesh, Dataset(feed, None, class_names))
    train_step = make_train_step(experiment)
    arguments = (experiment.abstract_state(), feed.abstract_inputs())
    times = [time.perf_counter()]
    if TOPOLOGY.value is None:
        jax.block_until_ready(experiment.initial_state())
    times.append(time.perf_counter())
    lowered = train_step.lower(*arguments)
    times.append(time.perf_counter())
    lowered.compile()
    times.append(time.perf_counter())
    durations = [after - before for before, after in itertools.pairwise(times)]
    return dict(zip(("initial_state", "step_traced", "step_compiled"), durations, strict=True))


def _devices() -> list:
    if TOPOLOGY.value is None:
        return jax.devices()
    return topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY.value).devices


if __name__ == "__main__":
    app.run(main)
