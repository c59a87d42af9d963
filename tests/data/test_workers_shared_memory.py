import collections
import itertools
import os
import pickle
import threading
import types

import numpy as np
import pytest

from resnet_jax.data import workers
from resnet_jax.data.workers import SharedRingBuffer
from resnet_jax.errors import UserError


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Count how often a worker found no free slot and had to wait, and fail instead of waiting forever."""
    count_waits = threading.Semaphore(0)
    sleep, num_waits = workers.time.sleep, itertools.count()

    def wait(seconds):
        assert next(num_waits) < 10_000
        count_waits.release()
        sleep(seconds)

    monkeypatch.setattr(workers, "time", types.SimpleNamespace(sleep=wait))
    return count_waits


@pytest.fixture
def buffer():
    """Return a buffer with two slots of 3 x 2 bytes, for arrays numbered from 5."""
    buffer = SharedRingBuffer(2, 5, (3, 2))
    yield buffer
    buffer.close()


@pytest.fixture
def in_worker(buffer):
    """Return the same buffer as another process receives it."""
    copy = pickle.loads(pickle.dumps(buffer))
    yield copy
    copy._memory.close()


def test_arrays_are_taken_in_order(buffer, in_worker):
    for number in range(5, 12):
        in_worker.writable_slot(number)[:] = number
        np.testing.assert_array_equal(buffer.take(number), np.full((3, 2), number, np.uint8))


def test_slots_can_be_filled_in_any_order(buffer, in_worker):
    in_worker.writable_slot(6)[:] = 60
    in_worker.writable_slot(5)[:] = 50
    assert [buffer.take(5).max(), buffer.take(6).min()] == [50, 60]


def test_taken_array_does_not_change_when_its_slot_is_reused(buffer, in_worker):
    in_worker.writable_slot(5)[:] = 50
    taken = buffer.take(5)
    in_worker.writable_slot(7)[:] = 70
    assert taken.max() == 50


class Filler:
    """Fill an array from another thread, and signal when it is done."""

    def __init__(self, buffer, number):
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(buffer, number), daemon=True)
        self._thread.start()

    def _fill(self, buffer, number):
        buffer.writable_slot(number)[:] = number
        self.done.set()


def test_worker_waits_until_its_slot_is_free(buffer, in_worker, waits):
    for number in (5, 6):
        in_worker.writable_slot(number)[:] = number
    ahead = Filler(in_worker, 7)
    for _ in range(5):
        assert waits.acquire(timeout=10)
    assert not ahead.done.is_set()
    assert buffer.take(5).max() == 5
    assert ahead.done.wait(10)
    assert [buffer.take(6).max(), buffer.take(7).max()] == [6, 7]


def test_release_ends_all_waiting(buffer, in_worker, waits):
    ahead = Filler(in_worker, 100)
    assert waits.acquire(timeout=10)
    buffer.release()
    assert ahead.done.wait(10)


def test_too_little_shared_memory_is_rejected(monkeypatch):
    usage = collections.namedtuple("Usage", "free")
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: usage(64_000_000))
    with pytest.raises(
        UserError, match=r"need 250 MB of shared memory, but /dev/shm has only 64 MB free\. .*--shm-size=8g"
    ):
        SharedRingBuffer(5, 0, (50_000_000,))
    SharedRingBuffer(5, 0, (1000,)).close()


def test_free_shared_memory_is_not_checked_on_other_systems(monkeypatch):
    def absent(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(workers.shutil, "disk_usage", absent)
    SharedRingBuffer(5, 0, (1000,)).close()


@pytest.mark.skipif(not os.path.isdir(workers.SHARED_MEMORY), reason="shared memory is not a directory on this system")
def test_close_frees_the_memory():
    buffer = SharedRingBuffer(2, 0, (3, 2))
    path = os.path.join(workers.SHARED_MEMORY, buffer._memory.name.lstrip("/"))
    assert os.path.exists(path)
    buffer.writable_slot(0)[:] = 1
    buffer.take(0)
    buffer.close()
    assert not os.path.exists(path)
