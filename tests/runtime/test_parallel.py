import threading
import types

import jax
import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("Unable to initialize backend 'tpu': no libtpu"),
            "Unable to initialize backend 'tpu': no libtpu",
        ),
        (AssertionError(), "no such device on this machine"),
    ],
)
def test_missing_device_is_reported_with_the_platforms(monkeypatch, error, reason):
    def devices():
        raise error

    monkeypatch.setattr(parallel.jax, "devices", devices)
    with pytest.raises(UserError) as raised:
        parallel.make_mesh()
    assert str(raised.value).startswith(f"JAX finds no device to use (JAX_PLATFORMS=cpu: {reason}). Unset")


@pytest.mark.parametrize(
    ("names", "expected"),
    [((["a", "b"], ["b", "c", "\udcff"]), 4), (([], ["a"]), 1), (([], []), 0), ((["a", "b"], []), 2)],
)
def test_distinct_names_of_all_processes_are_counted(monkeypatch, names, expected):
    """Each process sends its arrays at the same time as the other."""
    barrier = threading.Barrier(2)
    sent = {}

    def allgather(array):
        process = int(threading.current_thread().name)
        sent[process] = array
        barrier.wait()
        gathered = np.stack([sent[0], sent[1]])
        barrier.wait()
        return gathered

    counts = {}
    monkeypatch.setattr(parallel.multihost_utils, "process_allgather", allgather)
    threads = [
        threading.Thread(
            name=str(process),
            target=lambda process=process: counts.update({process: parallel.count_distinct(names[process])}),
        )
        for process in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {0: expected, 1: expected}


def test_missing_device_is_reported_with_the_older_variable(monkeypatch):
    def devices():
        raise RuntimeError("Unknown backend: 'gpu' requested")

    monkeypatch.setattr(parallel.jax, "devices", devices)
    monkeypatch.setattr(type(jax.config), "jax_platforms", "")
    monkeypatch.setenv("JAX_PLATFORM_NAME", "gpu")
    with pytest.raises(UserError, match=r"\(JAX_PLATFORM_NAME=gpu: .*\)\. Unset JAX_PLATFORM_NAME to"):
        parallel.make_mesh()


def test_batch_is_split_over_all_devices(mesh):
    batch = parallel.place(np.arange(16).reshape(16, 1), parallel.batch_sharded(mesh))
    assert [shard.data.ravel().tolist() for shard in batch.addressable_shards] == [[i, i + 1] for i in range(0, 16, 2)]


def test_replicated_array_is_whole_on_every_device(mesh):
    array = parallel.place(np.arange(3), parallel.replicated(mesh))
    assert len(array.addressable_shards) == 8
    assert all(shard.data.tolist() == [0, 1, 2] for shard in array.addressable_shards)


def test_fetch_returns_copies(single_device):
    """A view would hold the buffer, so the buffer could not be donated to the next step."""
    array = parallel.place(np.arange(1000.0, dtype=np.float32), parallel.replicated(single_device))
    assert not jax.device_get(array).flags.owndata
    assert parallel.fetch(array).flags.owndata
    np.testing.assert_array_equal(parallel.fetch(array), np.arange(1000.0))


def test_check_batch_size_suggests_the_nearest_divisible_size(mesh):
    with pytest.raises(
        UserError, match=r"batch_size=100 is not divisible by the number of devices \(8\)\. .*batch_size=96"
    ):
        parallel.check_batch_size(100, mesh)
    parallel.check_batch_size(104, mesh)
    message = (
        r"104 is not divisible by the number of devices times optimizer.accumulate_steps \(8 x 4\)\. .*batch_size=96"
    )
    with pytest.raises(UserError, match=message):
        parallel.check_batch_size(104, mesh, accumulate_steps=4)
    parallel.check_batch_size(96, mesh, accumulate_steps=4)


def test_local_rows_of_a_single_process_are_all_rows(mesh, single_device):
    for devices in (mesh, single_device):
        rows = parallel.local_rows(devices, 24)
        assert rows.tolist() == list(range(24))


def test_local_rows_are_those_of_the_devices_of_the_process(mesh, monkeypatch):
    """Pretend that four of the eight devices belong to another machine."""
    whole = parallel.batch_sharded(mesh).addressable_devices_indices_map((24,))
    own = {device: index for device, index in whole.items() if device.id in (2, 3, 6, 7)}
    sharding = types.SimpleNamespace(addressable_devices_indices_map=lambda shape: own if shape == (24,) else None)
    monkeypatch.setattr(parallel, "batch_sharded", lambda mesh: sharding)
    assert parallel.local_rows(mesh, 24).tolist() == [*range(6, 12), *range(18, 24)]


def test_place_rows_keeps_the_order_of_the_rows(mesh):
    images, labels = np.arange(48, dtype=np.uint8).reshape(16, 3), np.arange(16, dtype=np.int32)
    rows = parallel.local_rows(mesh, 16)
    placed = parallel.place_rows((images[rows], labels[rows]), mesh, 16)
    for array, expected in zip(placed, (images, labels), strict=True):
        assert array.sharding.is_equivalent_to(parallel.batch_sharded(mesh), array.ndim)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    assert [shard.data.tolist() for shard in placed[1].addressable_shards] == [[i, i + 1] for i in range(0, 16, 2)]


def test_pace_allows_a_few_calls_ahead_and_then_waits_for_several_at_once(monkeypatch):
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


def test_free_memory_is_the_minimum_over_all_processes(monkeypatch):
    """All processes must decide alike. JAX exchanges 32-bit integers, which cannot hold 9 GiB in bytes."""
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel.multihost_utils, "process_allgather", lambda own: np.array([own, 8 * 2**10], np.int32))
    own = types.SimpleNamespace(local_devices=[Device(10 * 2**30, 2**30)])
    assert parallel.free_memory(own) == 8 * 2**30
