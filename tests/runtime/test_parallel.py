import types

import jax
import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel


def test_batch_is_split_over_all_devices(mesh):
    batch = parallel.place(np.arange(16).reshape(16, 1), parallel.batch_sharded(mesh))
    assert [shard.data.ravel().tolist() for shard in batch.addressable_shards] == [[i, i + 1] for i in range(0, 16, 2)]


def test_replicated_array_is_whole_on_every_device(mesh):
    array = parallel.place(np.arange(3), parallel.replicated(mesh))
    assert len(array.addressable_shards) == 8
    assert all(shard.data.tolist() == [0, 1, 2] for shard in array.addressable_shards)


def test_fetched_arrays_are_copies(single_device):
    """A view would keep the buffer, which the next step wants to reuse."""
    array = parallel.place(np.arange(1000.0, dtype=np.float32), parallel.replicated(single_device))
    assert not jax.device_get(array).flags.owndata
    assert parallel.fetch(array).flags.owndata
    np.testing.assert_array_equal(parallel.fetch(array), np.arange(1000.0))


def test_uneven_batch_is_refused_with_a_size_that_works(mesh):
    with pytest.raises(UserError, match=r"batch_size 100 is not divisible by the 8 devices: .*batch_size=96"):
        parallel.check_batch_size(100, mesh)
    parallel.check_batch_size(104, mesh)
    sentence = r"104 is not divisible by devices times optimizer.accumulate_steps \(8 x 4\): .*batch_size=96"
    with pytest.raises(UserError, match=sentence):
        parallel.check_batch_size(104, mesh, parts=4)
    parallel.check_batch_size(96, mesh, parts=4)


def test_a_single_process_holds_all_rows_of_a_batch_on_any_number_of_devices(mesh, single_device):
    for devices in (mesh, single_device):
        rows = parallel.local_rows(devices, 24)
        assert rows.tolist() == list(range(24))


def test_a_process_holds_the_rows_of_its_devices(mesh, monkeypatch):
    """As if four of the eight devices were another machine's."""
    whole = parallel.batch_sharded(mesh).addressable_devices_indices_map((24,))
    own = {device: index for device, index in whole.items() if device.id in (2, 3, 6, 7)}
    sharding = types.SimpleNamespace(addressable_devices_indices_map=lambda shape: own if shape == (24,) else None)
    monkeypatch.setattr(parallel, "batch_sharded", lambda mesh: sharding)
    assert parallel.local_rows(mesh, 24).tolist() == [*range(6, 12), *range(18, 24)]


def test_rows_become_a_batch_in_their_order(mesh):
    images, labels = np.arange(48, dtype=np.uint8).reshape(16, 3), np.arange(16, dtype=np.int32)
    rows = parallel.local_rows(mesh, 16)
    placed = parallel.place_rows((images[rows], labels[rows]), mesh, 16)
    for array, expected in zip(placed, (images, labels), strict=True):
        assert array.sharding.is_equivalent_to(parallel.batch_sharded(mesh), array.ndim)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    assert [shard.data.tolist() for shard in placed[1].addressable_shards] == [[i, i + 1] for i in range(0, 16, 2)]


def test_pace_lets_a_few_calls_run_ahead_and_then_waits_for_half_of_them(monkeypatch):
    waited = []
    monkeypatch.setattr(parallel.jax, "block_until_ready", waited.append)
    pace = parallel.Pace()
    after = [pace(number) or list(waited) for number in range(11)]
    assert after == [[], [], [], [], [2], [2], [2], [2, 5], [2, 5], [2, 5], [2, 5, 8]]


class Device:
    platform = "gpu"

    def __init__(self, limit, used):
        self._stats = {"bytes_limit": limit, "bytes_in_use": used}

    def memory_stats(self):
        return self._stats


def test_free_memory_is_that_of_the_fullest_device():
    devices = types.SimpleNamespace(local_devices=[Device(100, 10), Device(100, 70), Device(80, 20)])
    assert parallel.free_memory(devices) == 30


def test_simulated_devices_share_the_memory_of_the_machine(mesh, monkeypatch):
    monkeypatch.setattr(parallel.host_memory, "available", lambda: 8_000)
    assert parallel.free_memory(mesh) == 1_000


def test_free_memory_is_that_of_the_process_that_has_least(monkeypatch):
    """Processes must decide alike; JAX hands integers of 32 bits around, and 9 GiB have more."""
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel.multihost_utils, "process_allgather", lambda own: np.array([own, 8 * 2**10], np.int32))
    own = types.SimpleNamespace(local_devices=[Device(10 * 2**30, 2**30)])
    assert parallel.free_memory(own) == 8 * 2**30
