"""The CIFAR-10 recipe's train step, compiled for eight TPU v5e chips; it takes libtpu, but no TPU.

libtpu compiles for a described topology, so that what XLA makes of the step there can be read here: sharding, types and
memory. JAX itself stays on the CPU. To run: `pip install libtpu`, of the version that `jax[tpu]` names, and then

    python -m pytest -m slow tests/training/test_tpu_compile.py
"""

import collections
import dataclasses
import functools
import math
import pathlib
import re
import runpy

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from resnet_jax import parallel
from resnet_jax.data.augment import pipeline
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.resident import EpochInputs, take_batch
from resnet_jax.models import creation
from resnet_jax.training import losses, optimizer, setup, state, step

pytestmark = pytest.mark.slow

RECIPE = pathlib.Path(__file__).parents[2] / "configs" / "cifar10.py"
TRAINING_EXAMPLES = 45_000  # a tenth of CIFAR-10's 50,000 is held out
MEMORY_OF_A_CHIP = 16 * 10**9
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # no questions to a cloud's metadata server, which would be waited for
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no device is opened, so no other process is in the way
}
COLLECTIVE = re.compile(
    r"= (?P<result>.*?) (?P<name>all-reduce|all-gather|all-to-all|reduce-scatter|collective-\w+|ragged-all-to-all)"
    r"(?:-start)?\("
)
CONVOLUTION = re.compile(
    r"= (?P<dtype>\w+)\[(?P<shape>[\d,]+)\]\S* convolution\(.*op_name=\"(?P<op>[^\"]*/conv_general_dilated)\""
)
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled train step, and what it was compiled from."""

    dtype: str
    steps: int
    batch_on_a_device: int
    state: state.TrainState  # shapes and types
    text: str  # in XLA's language (HLO), after all its passes, for one device
    memory: object  # jaxlib's CompiledMemoryStats, for one device


@pytest.fixture(scope="module")
def mesh():
    """Eight chips of a TPU v5e that are described, but not there."""
    pytest.importorskip("libtpu", reason="compiling for a TPU takes libtpu: pip install libtpu")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
        # What is compiled without a device can be written to JAX's compilation cache, but not read back.
        setting = "jax_persistent_cache_min_compile_time_secs"
        before = getattr(jax.config, setting)
        jax.config.update(setting, float("inf"))
        yield parallel.make_mesh(topology.devices)
        jax.config.update(setting, before)


@pytest.fixture(
    scope="module",
    params=[("float32", 1), ("bfloat16", 1), ("bfloat16", setup.MOST_STEPS_PER_CALL)],
    ids=lambda parameters: "{}-{}".format(*parameters),
)
def program(request, mesh) -> Program:
    """The step in both types, and as many steps in a call as a run on a TPU takes."""
    dtype, steps = request.param
    config = runpy.run_path(str(RECIPE))["get_config"]()
    config.model.dtype = dtype
    steps_per_epoch = TRAINING_EXAMPLES // config.batch_size
    model = creation.from_config(config, num_classes=10)
    schedule = optimizer.make_schedule(config, steps_per_epoch)
    sgd = optimizer.make_optimizer(config, schedule)
    initial = jax.eval_shape(lambda: state.create(model, sgd, (32, 32, 3), config.seed))
    inputs = EpochInputs(
        pixels=jax.ShapeDtypeStruct((TRAINING_EXAMPLES, 32 * 32 * 3), jnp.uint8),
        labels=jax.ShapeDtypeStruct((TRAINING_EXAMPLES,), jnp.int32),
        order=jax.ShapeDtypeStruct((steps_per_epoch, config.batch_size), jnp.int32),
    )
    preprocess = Preprocess(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    take = functools.partial(take_batch, image_shape=(32, 32, 3), mesh=mesh)
    augment = pipeline.from_config(config.augment, num_classes=10, fill=(125, 123, 114))
    batch_of, loss_of = step.make_batch(take, augment, config.seed), losses.from_config(config.loss)
    train_step = step.make_train_step(model, batch_of, preprocess, loss_of, sgd, schedule, mesh, steps)
    compiled = train_step.lower(*parallel.abstract((initial, inputs), parallel.replicated(mesh))).compile()
    return Program(
        dtype=dtype,
        steps=steps,
        batch_on_a_device=config.batch_size // mesh.size,
        state=initial,
        text=compiled.as_text(),
        memory=compiled.memory_analysis(),
    )


def numbers(text: str) -> tuple[int, ...]:
    """The dimensions of an array, as HLO writes them: "3,3,64,64", or nothing for a scalar."""
    return tuple(int(number) for number in text.split(",") if number)


def test_devices_exchange_gradients_and_statistics_and_nothing_else(program):
    """The set and the weights are on every device and stay there: all-reduces are the only communication.

    One for each kernel's gradient there must be, or the devices would drift apart; and beside the gradients they sum
    only what is small, such as BatchNorm's sums and the metrics: no pictures, no activations.
    """
    collectives = list(COLLECTIVE.finditer(program.text))
    assert {collective["name"] for collective in collectives} == {"all-reduce"}
    summed = collections.Counter(
        numbers(shape) for collective in collectives for _, shape in ARRAY.findall(collective["result"])
    )
    parameters = jax.tree.leaves(program.state.params)
    kernels = collections.Counter(leaf.shape for leaf in parameters if leaf.ndim > 1)
    assert {shape: count for shape, count in summed.items() if len(shape) > 1} == kernels
    count = sum(leaf.size for leaf in parameters)
    assert count <= sum(math.prod(shape) * times for shape, times in summed.items()) < 1.01 * count


def test_each_device_convolves_its_own_part_of_the_batch_in_the_type_that_was_asked_for(program):
    """A batch that is not split would be right, only eight times slower, and so would a type that is lost on the way.

    Forwards and backwards: a gradient of a convolution is a convolution too.
    """
    convolutions = list(CONVOLUTION.finditer(program.text))
    forward = [numbers(found["shape"]) for found in convolutions if "transpose(" not in found["op"]]
    kernels = [leaf for leaf in jax.tree.leaves(program.state.params) if leaf.ndim == 4]
    assert len(forward) >= len(kernels)
    assert len(convolutions) >= 3 * len(kernels) - 1  # pictures need no gradient
    assert {shape[0] for shape in forward} == {program.batch_on_a_device}
    short = {"float32": "f32", "bfloat16": "bf16"}[program.dtype]
    assert {found["dtype"] for found in convolutions} == {short}


def test_the_state_is_updated_in_place_and_most_of_the_memory_is_free(program):
    """The donated state's buffers are reused; a step takes, with the whole set, less than a tenth of a chip's memory.

    That holds for many steps in a call too: they are a loop, not as many copies of the step.
    """
    memory = program.memory
    assert memory.alias_size_in_bytes >= sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.state))
    fresh_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    code = memory.generated_code_size_in_bytes
    total = memory.argument_size_in_bytes + fresh_outputs + memory.temp_size_in_bytes + code
    assert total < MEMORY_OF_A_CHIP / 10
