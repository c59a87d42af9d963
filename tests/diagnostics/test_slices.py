"""The train step of ResNet-20, with one block per stage, compiled for two slices of four TPU v5e chips each.

This requires libtpu, but no TPU; see test_tpu_compile.py.
"""

import dataclasses
import functools
import math
import re

import jax
import pytest

from resnet_jax import config as settings
from resnet_jax.data.abstract_dataset import AbstractFeed
from resnet_jax.data.dataset import Dataset
from resnet_jax.diagnostics.hlo import parse_collectives
from resnet_jax.models import variants
from resnet_jax.runtime import parallel, tpu_topology
from resnet_jax.training import experiment
from resnet_jax.training.train_step import lower_train_step

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mesh():
    pytest.importorskip("libtpu", reason="compiling for a TPU requires libtpu: pip install libtpu")
    cached = jax.config.jax_enable_compilation_cache
    yield parallel.make_mesh(tpu_topology.describe("v5e:2x2", slices=2))
    jax.config.update("jax_enable_compilation_cache", cached)


@pytest.fixture(params=[0, 32], ids=["statistics of the batch", "statistics of a slice"])
def compiled(mesh, monkeypatch, request):
    """Return the size of BatchNorm's groups, the shapes of the parameters, and the HLO of the step for 64 images."""
    variant = variants.VARIANTS["resnet20"]
    small = dataclasses.replace(variant, make=functools.partial(variant.make, stage_sizes=(1, 1, 1)))
    monkeypatch.setitem(variants.VARIANTS, "resnet20", small)
    config = settings.default()
    config.batch_size, config.dataset.feed = 64, "resident"
    config.dataset.mean, config.dataset.std = (0.5,) * 3, (0.25,) * 3
    config.batch_norm.group_size = request.param
    feed = AbstractFeed((32, 32, 3), 45_000, config.batch_size, mesh, is_resident=True)
    assembled = experiment.assemble(config, mesh, Dataset(feed, None, tuple("0123456789")))
    hlo = lower_train_step(assembled).compile().as_text()
    return request.param, [leaf.shape for leaf in jax.tree.leaves(assembled.abstract_state().params)], hlo


def test_devices_of_a_slice_are_next_to_each_other(mesh):
    assert [device.slice_index for device in mesh.devices.flat] == [0] * 4 + [1] * 4
    assert parallel.num_slices(mesh.devices.flat) == 2


def test_slices_exchange_a_share_of_the_gradients_per_chip_and_statistics_only_without_groups(compiled):
    """Inside a slice, gradients are scattered and gathered again. Between slices, each chip sums its quarter."""
    group_size, shapes, hlo = compiled
    groups = re.findall(r" (?:all-reduce|reduce-scatter|all-gather)\([^\n]*replica_groups=(\S+?),? ", hlo)
    assert groups and set(groups) == {"{{0,1,2,3}}"}  # chips of a slice
    collectives = parse_collectives(hlo)
    inside = [collective for collective in collectives if not collective.between_slices]
    assert {collective.kind for collective in inside} == {"reduce-scatter", "all-gather", "all-reduce"}
    # What is gathered is the gradients of the kernels.
    gradients = 4 * sum(math.prod(shape) for shape in shapes if len(shape) > 1)
    assert sum(collective.bytes for collective in inside if collective.kind == "all-gather") == gradients
    between = [collective for collective in collectives if collective.between_slices]
    assert {collective.kind for collective in between} == {"all-reduce"}
    # Slices are numbered from 1 here: the chips 0 to 3 of one slice exchange with those of the other.
    assert set(re.findall(r'_xla_megascale_target="(.*?)"', hlo)) == {"{1,2}x{0:3}"}
    assert gradients / 4 < sum(collective.bytes for collective in between) < gradients
    # Each kernel has an exchange of its own; the vectors share one, and so do the metrics.
    kernels = [shape for shape in shapes if len(shape) > 1]
    largest = max(math.prod(shape) for shape in kernels)
    sent = max(collective.bytes for collective in between)
    assert 4 * largest / 4 <= sent <= 2 * 4 * largest / 4  # 64 channels are padded to 128.
    if group_size:
        assert len(between) <= len(kernels) + 2
    else:
        assert len(between) > len(kernels) + 2  # those of the statistics
