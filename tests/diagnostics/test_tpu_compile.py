"""The CIFAR-10 recipe's train step, compiled for eight TPU v5e chips; it takes libtpu, but no TPU.

The network is a ResNet-20 with one block a stage, for deeper ones only repeat what is in it. libtpu compiles for a
described topology, so that what XLA makes of the step there can be read here: sharding, types and memory. JAX itself
stays on the CPU. To run: `pip install libtpu`, of the version that `jax[tpu]` names, and then

    python -m pytest -m slow tests/diagnostics/test_tpu_compile.py
"""

import collections
import dataclasses
import functools
import math
import pathlib
import re
import runpy

import jax
import pytest

from resnet_jax.data.abstract_dataset import AbstractFeed
from resnet_jax.data.dataset import Dataset
from resnet_jax.diagnostics.hlo import collectives
from resnet_jax.models import variants
from resnet_jax.runtime import parallel, tpu_topology
from resnet_jax.training import experiment, state

pytestmark = pytest.mark.slow

RECIPE = pathlib.Path(__file__).parents[2] / "configs" / "cifar10.py"
TRAINING_EXAMPLES = 45_000  # a tenth of CIFAR-10's 50,000 is held out
CONVOLUTION = re.compile(
    r"= (?P<dtype>\w+)\[(?P<shape>[\d,]+)\]\S* convolution\(.*op_name=\"(?P<op>[^\"]*/conv_general_dilated)\""
)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled train step, and what it was compiled from."""

    dtype: str
    steps: int
    batch_on_a_device: int
    state: state.TrainState  # shapes and types
    text: str  # in XLA's language (HLO), after all its passes, for one device
    memory: object  # jaxlib's CompiledMemoryStats, for one device
    capacity: int  # bytes of memory of a device


@pytest.fixture(scope="module")
def mesh():
    """Eight chips of a TPU v5e that are described, but not there."""
    pytest.importorskip("libtpu", reason="compiling for a TPU takes libtpu: pip install libtpu")
    cached = jax.config.jax_enable_compilation_cache
    yield parallel.make_mesh(tpu_topology.describe("v5e:2x4"))
    jax.config.update("jax_enable_compilation_cache", cached)


@pytest.fixture(autouse=True)
def one_block_a_stage(monkeypatch):
    row = variants.VARIANTS["resnet20"]
    shallow = dataclasses.replace(row, make=functools.partial(row.make, stage_sizes=(1, 1, 1)))
    monkeypatch.setitem(variants.VARIANTS, "resnet20", shallow)


def compiled_program(mesh, dtype, steps) -> Program:
    """The step in a type, so many of them in a call."""
    config = runpy.run_path(str(RECIPE))["get_config"]("resnet20")
    config.model.dtype, config.dataset.feed = dtype, "resident"
    config.dataset.mean, config.dataset.std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    feed = AbstractFeed((32, 32, 3), TRAINING_EXAMPLES, config.batch_size, mesh, is_resident=True)
    parts = experiment.assemble(config, mesh, Dataset(feed, None, tuple("0123456789")))
    compiled = parts.lower(steps).compile()
    return Program(
        dtype=dtype,
        steps=steps,
        batch_on_a_device=config.batch_size // mesh.size,
        state=parts.abstract_state(),
        text=compiled.as_text(),
        memory=compiled.memory_analysis(),
        capacity=parallel.free_memory(mesh),
    )


@pytest.mark.parametrize(("dtype", "steps"), [("float32", 1), ("bfloat16", experiment.MOST_STEPS_PER_CALL)])
def test_the_step_for_a_tpu(mesh, dtype, steps):
    """In both types, once alone and once as many in a call as a run on a TPU takes; compiling takes half a minute."""
    program = compiled_program(mesh, dtype, steps)
    assert_gradients_and_statistics_are_all_that_devices_exchange(program)
    assert_each_device_convolves_its_own_part_of_the_batch_in_the_type_asked_for(program)
    assert_the_state_is_updated_in_place_and_most_of_the_memory_is_free(program)


def assert_gradients_and_statistics_are_all_that_devices_exchange(program):
    """The set and the weights are on every device and stay there: all-reduces are the only communication.

    One for each kernel's gradient there must be, or the devices would drift apart; and beside the gradients they sum
    only what is small, such as BatchNorm's sums and the metrics: no pictures, no activations.
    """
    found = collectives(program.text)
    assert {collective.kind for collective in found} == {"all-reduce"}
    summed = collections.Counter(shape for collective in found for _, shape in collective.arrays)
    parameters = jax.tree.leaves(program.state.params)
    kernels = collections.Counter(leaf.shape for leaf in parameters if leaf.ndim > 1)
    assert {shape: count for shape, count in summed.items() if len(shape) > 1} == kernels
    count = sum(leaf.size for leaf in parameters)
    assert count <= sum(math.prod(shape) * times for shape, times in summed.items()) < 1.01 * count


def assert_each_device_convolves_its_own_part_of_the_batch_in_the_type_asked_for(program):
    """A batch that is not split would be right, only eight times slower, and so would a type that is lost on the way.

    Forwards and backwards: a gradient of a convolution is a convolution too.
    """
    convolutions = list(CONVOLUTION.finditer(program.text))
    forward = [_numbers(found["shape"]) for found in convolutions if "transpose(" not in found["op"]]
    kernels = [leaf for leaf in jax.tree.leaves(program.state.params) if leaf.ndim == 4]
    assert len(forward) >= len(kernels)
    assert 3 * len(kernels) - 1 <= len(convolutions) < 6 * len(kernels)  # Pictures need no gradient; steps are a loop.
    assert {shape[0] for shape in forward} == {program.batch_on_a_device}
    short = {"float32": "f32", "bfloat16": "bf16"}[program.dtype]
    assert {found["dtype"] for found in convolutions} == {short}


def assert_the_state_is_updated_in_place_and_most_of_the_memory_is_free(program):
    """The donated state's buffers are reused; a step takes, with the whole set, less than a tenth of a chip's memory.

    That holds for many steps in a call too: they are a loop, not as many copies of the step.
    """
    memory = program.memory
    assert memory.alias_size_in_bytes >= sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.state))
    fresh_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    code = memory.generated_code_size_in_bytes
    total = memory.argument_size_in_bytes + fresh_outputs + memory.temp_size_in_bytes + code
    assert total < program.capacity / 10


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))
