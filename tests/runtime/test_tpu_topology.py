import types

import jax
import pytest

from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel, tpu_topology


def raises(error):
    def function(**_):
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("JAX TPU support not installed; cannot generate TPU topology."), "takes libtpu: pip install"),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Your TPU topology name v5e is invalid"), "no TPU slice 'v5e'"),
    ],
)
def test_what_cannot_be_described_is_told_in_a_sentence(monkeypatch, error, sentence):
    monkeypatch.setattr(tpu_topology.topologies, "get_topology_desc", raises(error))
    with pytest.raises(UserError, match=sentence):
        tpu_topology.describe("v5e")


def test_of_devices_at_hand_nothing_is_specified():
    assert tpu_topology.chip(jax.devices()[0]) is None


def device(*coords: int, kind: str = "TPU v5 lite") -> types.SimpleNamespace:
    """As libtpu describes one; what it says when it is asked for its memory is quoted."""
    error = jax.errors.JaxRuntimeError("INVALID_ARGUMENT: MemoryStats is only supported for addressable PjRt devices.")
    return types.SimpleNamespace(device_kind=kind, coords=list(coords), memory_stats=raises(error))


def with_client(*devices: types.SimpleNamespace) -> list[types.SimpleNamespace]:
    for each in devices:
        each.client = types.SimpleNamespace(devices=lambda: devices)
    return list(devices)


def test_the_parts_of_a_chip_share_its_memory_and_speed():
    one, *_ = with_client(
        device(0, 0, 0, kind="TPU v4"), device(0, 0, 0, kind="TPU v4"), device(1, 0, 0, kind="TPU v4")
    )
    assert tpu_topology.chip(one) == tpu_topology.Chip(16 * 2**30, 137.5e12)


def test_a_device_that_is_described_is_empty():
    devices = with_client(device(0, 0, 0), device(1, 0, 0))
    assert parallel.free_memory(types.SimpleNamespace(local_devices=devices)) == 16 * 2**30


def test_libtpu_describes_slices():
    pytest.importorskip("libtpu", reason="takes libtpu: pip install libtpu")
    cached = jax.config.jax_enable_compilation_cache
    mesh = parallel.make_mesh(tpu_topology.describe("v5e:4x8"))
    jax.config.update("jax_enable_compilation_cache", cached)
    assert (mesh.size, parallel.free_memory(mesh)) == (32, 16 * 2**30)
    with pytest.raises(UserError, match="no TPU slice 'v5e:3x5'"):
        tpu_topology.describe("v5e:3x5")
