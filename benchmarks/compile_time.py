"""Seconds until a network can be trained: to draw its initial state, and to trace and compile its train step.

    python -m benchmarks.compile_time --models=resnet152,resnetv2_1001:loop
    python -m benchmarks.compile_time --topology=v5e:2x2    # for a TPU that need not be there; takes libtpu

`:loop` is `model.scan_blocks`: equal blocks are compiled once. The step is the one of a run, with SGD and momentum, for
8 pictures of the size that the network was made for, in float32.

RESULT, 2026-11-22, commit 3e47d1b, 2 cores of an AMD EPYC (a shared machine), Python 3.11, JAX 0.10.2, n = 1, seconds:

    model                initial state   step traced   step compiled
    resnet152                      9.0           3.3            18.8
    resnetv2_1001:loop            10.4           7.9           132.5

The latter has 3,000 arrays, each of which is updated by itself: with 30 blocks a stage in place of 111, update and norm
of the gradient took 12 of 22 s. Without the loop it was given up after four minutes.
"""

import functools
import itertools
import json
import time

import jax
import jax.numpy as jnp
from absl import app, flags, logging
from jax.experimental import topologies
from jax.sharding import Mesh

from resnet_jax import config as settings
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.models.factory import create_model
from resnet_jax.models.variants import VARIANTS
from resnet_jax.runtime import parallel, provenance
from resnet_jax.terminal import table
from resnet_jax.training import losses, optimizer
from resnet_jax.training.state import create_train_state
from resnet_jax.training.train_step import make_train_step

MODELS = flags.DEFINE_list(
    "models", ["resnet50", "resnet152", "resnet152:loop", "resnetv2_1001:loop"], "Names, :loop with blocks in a loop."
)
TOPOLOGY = flags.DEFINE_string("topology", None, "Of TPUs to compile for, such as v5e:2x2; unset: the devices here.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results.jsonl", "Where a line with all figures is added.")
BATCH_SIZE = 8


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    mesh = parallel.make_mesh(_devices()[:1])
    made, results = provenance.describe(), []
    for entry in MODELS.value:
        name, _, loop = entry.partition(":")
        results.append({"model": name, "loop": bool(loop), **seconds(name, bool(loop), mesh)})
        print(json.dumps(results[-1]), flush=True)
    rows = [tuple(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row.values()) for row in results]
    print("\n" + table(rows, header=tuple(key.replace("_", " ") for key in results[0])))
    if OUTPUT.value:
        line = {"benchmark": "compile_time", **made, "topology": TOPOLOGY.value, "batch_size": BATCH_SIZE}
        with open(OUTPUT.value, "a") as file:
            file.write(json.dumps({**line, "seconds": results}) + "\n")


def seconds(name: str, loop: bool, mesh: Mesh) -> dict[str, float]:
    """What it takes to draw the initial state (unless for described devices), to trace the step, and to compile it."""
    variant, config = VARIANTS[name], settings.default()
    model = create_model(name, variant.num_classes, scan_blocks=loop)
    schedule = optimizer.make_schedule(config, steps_per_epoch=100)
    sgd = optimizer.make_optimizer(config, schedule)
    shape = (variant.image_size, variant.image_size, 3)
    create = functools.partial(create_train_state, model, sgd, shape, seed=0)

    def take(inputs: tuple[jax.Array, jax.Array], _: jax.Array) -> tuple[jax.Array, jax.Array]:
        return inputs

    preprocess, loss_of = Preprocess((0.5,) * 3, (0.25,) * 3), losses.from_config(config.loss)
    train_step = make_train_step(model, take, preprocess, loss_of, sgd, schedule, mesh, seed=0)
    images = jax.ShapeDtypeStruct((BATCH_SIZE, *shape), jnp.uint8)
    labels = jax.ShapeDtypeStruct((BATCH_SIZE,), jnp.int32)
    arguments = parallel.abstract((jax.eval_shape(create), (images, labels)), parallel.replicated(mesh))
    clock = [time.perf_counter()]
    if TOPOLOGY.value is None:
        jax.block_until_ready(create())
    clock.append(time.perf_counter())
    lowered = train_step.lower(*arguments)
    clock.append(time.perf_counter())
    lowered.compile()
    clock.append(time.perf_counter())
    taken = [after - before for before, after in itertools.pairwise(clock)]
    return dict(zip(("initial_state", "step_traced", "step_compiled"), taken, strict=True))


def _devices() -> list:
    if TOPOLOGY.value is None:
        return jax.devices()
    return topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY.value).devices


if __name__ == "__main__":
    app.run(main)
