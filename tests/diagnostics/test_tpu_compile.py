"""Train steps of the CIFAR-10 recipes, compiled for eight TPU v5e chips. This requires libtpu, but no TPU.

The ResNet-20 has one block per stage, and the airbench94 a single block, because deeper models only repeat them. The
batches are smaller than those of the recipes, because libtpu takes many times longer to compile large convolutions.

libtpu compiles for a described topology, so the tests can check the sharding, types and memory of the compiled step.
JAX itself stays on the CPU. To run the tests, install the version of libtpu that `jax[tpu]` requires
(`pip install libtpu`), and then:

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
from resnet_jax.diagnostics.hlo import parse_collectives
from resnet_jax.models import variants
from resnet_jax.runtime import parallel, tpu_topology
from resnet_jax.training import experiment, state
from resnet_jax.training.train_step import lower_train_step

pytestmark = pytest.mark.slow

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
TRAINING_EXAMPLES = 45_000  # a tenth of CIFAR-10's 50,000 images is held out
CONVOLUTION = re.compile(
    r"= (?P<dtype>\w+)\[(?P<shape>[\d,]+)\]\S* convolution\(.*op_name=\"(?P<op>[^\"]*/conv_general_dilated)\""
)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled train step and what it was compiled from."""

    dtype: str
    steps: int
    batch_per_device: int
    state: state.TrainState  # abstract: shapes and dtypes
    trained: list[jax.ShapeDtypeStruct]  # the parameters that are not frozen
    hlo: str  # after all of XLA's passes, for one device
    memory: object  # jaxlib's CompiledMemoryStats, for one device
    capacity: int  # memory per device, in bytes


@pytest.fixture(scope="module")
def mesh():
    """A mesh of eight TPU v5e chips that are only described; no TPU is present."""
    pytest.importorskip("libtpu", reason="compiling for a TPU requires libtpu: pip install libtpu")
    cached = jax.config.jax_enable_compilation_cache
    yield parallel.make_mesh(tpu_topology.describe("v5e:2x4"))
    jax.config.update("jax_enable_compilation_cache", cached)


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    one_block = {"stage_sizes": (1,), "stage_widths": (128,)}
    for name, settings in (("resnet20", {"stage_sizes": (1, 1, 1)}), ("airbench94", one_block)):
        variant = variants.VARIANTS[name]
        small = dataclasses.replace(variant, make=functools.partial(variant.make, **settings))
        monkeypatch.setitem(variants.VARIANTS, name, small)


def compiled_program(mesh, dtype, steps, recipe="cifar10", variant="resnet20") -> Program:
    """Compile a call of `steps` train steps that computes in `dtype`."""
    config = runpy.run_path(str(CONFIGS / f"{recipe}.py"))["get_config"](variant)
    config.model.dtype = dtype
    config.batch_size = 64
    config.dataset.feed = "resident"
    config.dataset.mean = (0.49, 0.48, 0.45)
    config.dataset.std = (0.25, 0.24, 0.26)
    feed = AbstractFeed((32, 32, 3), TRAINING_EXAMPLES, config.batch_size, mesh, is_resident=True)
    assembled = experiment.assemble(config, mesh, Dataset(feed, None, tuple("0123456789")))
    compiled = lower_train_step(assembled, experiment.Call(steps)).compile()
    return Program(
        dtype=dtype,
        steps=steps,
        batch_per_device=config.batch_size // mesh.size,
        state=assembled.abstract_state(),
        trained=jax.tree.leaves(assembled.freezing.split(assembled.abstract_state().params)[0]),
        hlo=compiled.as_text(),
        memory=compiled.memory_analysis(),
        capacity=parallel.free_memory(mesh),
    )


@pytest.mark.parametrize(("dtype", "steps"), [("float32", 1), ("bfloat16", experiment.MAX_STEPS_PER_CALL)])
def test_train_step_compiles_for_a_tpu(mesh, dtype, steps):
    """Compile one step per call, and as many per call as a run on a TPU takes."""
    program = compiled_program(mesh, dtype, steps)
    assert_devices_exchange_only_gradients_and_statistics(program)
    assert_each_device_convolves_its_own_shard_in_the_requested_dtype(program)
    assert_state_is_updated_in_place_and_most_memory_stays_free(program)


def test_train_step_of_the_speedrun_compiles_for_a_tpu(mesh):
    """Every device repeats the small matrix products of Muon, so they need no communication."""
    program = compiled_program(mesh, "float32", 1, "cifar10_speedrun", "94")
    assert_devices_exchange_only_gradients_and_statistics(program)
    assert_state_is_updated_in_place_and_most_memory_stays_free(program)


def assert_devices_exchange_only_gradients_and_statistics(program):
    """Dataset and weights are replicated and stay where they are: all-reduces are the only communication.

    Each kernel's gradient must be reduced, or the devices would drift apart. Beside the gradients, the devices sum only
    small arrays, such as BatchNorm's sums and the metrics, but no images and no activations.
    """
    collectives = parse_collectives(program.hlo)
    assert {collective.kind for collective in collectives} == {"all-reduce"}
    summed = collections.Counter(shape for collective in collectives for _, shape in collective.arrays)
    kernels = collections.Counter(leaf.shape for leaf in program.trained if leaf.ndim > 1)
    assert {shape: count for shape, count in summed.items() if len(shape) > 1} == kernels
    count = sum(leaf.size for leaf in program.trained)
    assert count <= sum(math.prod(shape) * times for shape, times in summed.items()) < 1.01 * count


def assert_each_device_convolves_its_own_shard_in_the_requested_dtype(program):
    """Without sharding, results would be correct but eight times slower. The wrong dtype would be slow too.

    Forward and backward passes are checked, because the gradient of a convolution is a convolution too.
    """
    convolutions = list(CONVOLUTION.finditer(program.hlo))
    forward = [_parse_shape(match["shape"]) for match in convolutions if "transpose(" not in match["op"]]
    kernels = [leaf for leaf in jax.tree.leaves(program.state.params) if leaf.ndim == 4]
    assert len(forward) >= len(kernels)
    # The first convolution needs no gradient with respect to the images. A loop over steps holds each convolution once.
    assert 3 * len(kernels) - 1 <= len(convolutions) < 6 * len(kernels)
    assert {shape[0] for shape in forward} == {program.batch_per_device}
    hlo_dtype = {"float32": "f32", "bfloat16": "bf16"}[program.dtype]
    assert {match["dtype"] for match in convolutions} == {hlo_dtype}


def assert_state_is_updated_in_place_and_most_memory_stays_free(program):
    """The buffers of the donated state are reused, and step and dataset need less than a tenth of a chip's memory.

    This holds for many steps per call too, because they are a loop and not many copies of the step.
    """
    memory = program.memory
    assert memory.alias_size_in_bytes >= sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.state))
    fresh_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    code = memory.generated_code_size_in_bytes
    total = memory.argument_size_in_bytes + fresh_outputs + memory.temp_size_in_bytes + code
    assert total < program.capacity / 10


def _parse_shape(text: str) -> tuple[int, ...]:
    return tuple(int(dimension) for dimension in text.split(","))
