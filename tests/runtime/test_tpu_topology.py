import subprocess
import sys
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
    ("error", "message"),
    [
        (
            RuntimeError("JAX TPU support not installed; cannot generate TPU topology."),
            "needs libtpu. Run: pip install",
        ),
        (
            jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Your TPU topology name v5e is invalid"),
            "unknown TPU slice 'v5e'",
        ),
    ],
)
def test_describe_failure_is_one_sentence(monkeypatch, error, message):
    monkeypatch.setattr(tpu_topology.topologies, "get_topology_desc", raises(error))
    with pytest.raises(UserError, match=message):
        tpu_topology.describe("v5e")


def test_device_that_is_no_tpu_has_no_chip():
    assert tpu_topology.chip(jax.devices()[0]) is None


def device(*coords: int, kind: str = "TPU v5 lite") -> types.SimpleNamespace:
    """Return a stand-in for a device that libtpu describes. Its `memory_stats` raises an error, as libtpu's does."""
    error = jax.errors.JaxRuntimeError("INVALID_ARGUMENT: MemoryStats is only supported for addressable PjRt devices.")
    return types.SimpleNamespace(device_kind=kind, coords=list(coords), memory_stats=raises(error))


def with_client(*devices: types.SimpleNamespace) -> list[types.SimpleNamespace]:
    for described in devices:
        described.client = types.SimpleNamespace(devices=lambda: devices)
    return list(devices)


def test_devices_of_one_chip_share_its_memory_and_speed():
    first, *_ = with_client(
        device(0, 0, 0, kind="TPU v4"), device(0, 0, 0, kind="TPU v4"), device(1, 0, 0, kind="TPU v4")
    )
    assert tpu_topology.chip(first) == tpu_topology.Chip(16 * 2**30, 137.5e12)


def test_chips_of_two_slices_have_the_same_coordinates():
    first, second = with_client(device(0, 0, 0), device(0, 0, 0))
    first.slice_index, second.slice_index = 0, 1
    assert tpu_topology.chip(first) == tpu_topology.CHIPS["TPU v5 lite"]


def test_free_memory_of_a_described_device_is_its_whole_memory():
    devices = with_client(device(0, 0, 0), device(1, 0, 0))
    assert parallel.free_memory(types.SimpleNamespace(local_devices=devices)) == 16 * 2**30


def test_describe_returns_the_devices_of_a_slice():
    pytest.importorskip("libtpu", reason="needs libtpu: pip install libtpu")
    cached = jax.config.jax_enable_compilation_cache
    mesh = parallel.make_mesh(tpu_topology.describe("v5e:4x8"))
    jax.config.update("jax_enable_compilation_cache", cached)
    assert (mesh.size, parallel.num_slices(mesh.devices.flat), parallel.free_memory(mesh)) == (32, 1, 16 * 2**30)
    with pytest.raises(UserError, match="unknown TPU slice 'v5e:3x5'"):
        tpu_topology.describe("v5e:3x5")


IGNORES_SIGHUP = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
DESCRIBES_AND_STARTS_A_PROGRAM = f"""
import subprocess, sys
from resnet_jax.runtime import tpu_topology

tpu_topology.describe("v5e:2x2")
subprocess.run([sys.executable, "-c", {IGNORES_SIGHUP!r}], check=True)
"""


def test_programs_started_after_describe_do_not_ignore_sighup():
    """libtpu ignores SIGHUP once it is loaded, and a program ignores what its parent ignored."""
    pytest.importorskip("libtpu", reason="needs libtpu: pip install libtpu")
    command = [sys.executable, "-c", DESCRIBES_AND_STARTS_A_PROGRAM]
    started = subprocess.run(command, capture_output=True, text=True, check=True)
    assert started.stdout == "False\n"
