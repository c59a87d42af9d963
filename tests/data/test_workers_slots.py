import collections
import itertools
import os
import pickle
import threading
import types

import numpy as np
import pytest

from resnet_jax.data import workers
from resnet_jax.data.workers import Slots
from resnet_jax.errors import UserError


@pytest.fixture(autouse=True)
def naps(monkeypatch):
    """Counts how often someone has found no free slot and had to wait, and ends what would wait forever."""
    counted = threading.Semaphore(0)
    sleep, most = workers.time.sleep, itertools.count()

    def nap(seconds):
        assert next(most) < 10_000
        counted.release()
        sleep(seconds)

    monkeypatch.setattr(workers, "time", types.SimpleNamespace(sleep=nap))
    return counted


@pytest.fixture
def two():
    """Two slots of 3 x 2 bytes, for arrays that are numbered from 5 on."""
    made = Slots(2, 5, (3, 2))
    yield made
    made.close()


@pytest.fixture
def in_worker(two):
    """The same slots as another process gets them."""
    other = pickle.loads(pickle.dumps(two))
    yield other
    other._memory.close()


def test_what_is_filled_in_is_taken_in_order(two, in_worker):
    for number in range(5, 12):
        in_worker.fill(number)[:] = number
        np.testing.assert_array_equal(two.take(number), np.full((3, 2), number, np.uint8))


def test_slots_may_be_filled_in_any_order(two, in_worker):
    in_worker.fill(6)[:] = 60
    in_worker.fill(5)[:] = 50
    assert [two.take(5).max(), two.take(6).min()] == [50, 60]


def test_what_was_taken_does_not_change_when_its_slot_is_used_again(two, in_worker):
    in_worker.fill(5)[:] = 50
    taken = two.take(5)
    in_worker.fill(7)[:] = 70
    assert taken.max() == 50


class Filler:
    """Fills in an array from another thread, and says when it has."""

    def __init__(self, where, number):
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(where, number), daemon=True)
        self._thread.start()

    def _fill(self, where, number):
        where.fill(number)[:] = number
        self.done.set()


def test_a_worker_that_is_ahead_waits_until_its_slot_has_been_taken(two, in_worker, naps):
    for number in (5, 6):
        in_worker.fill(number)[:] = number
    ahead = Filler(in_worker, 7)
    for _ in range(5):
        assert naps.acquire(timeout=10)
    assert not ahead.done.is_set()
    assert two.take(5).max() == 5
    assert ahead.done.wait(10)
    assert [two.take(6).max(), two.take(7).max()] == [6, 7]


def test_nobody_waits_once_nothing_is_taken_any_more(two, in_worker, naps):
    ahead = Filler(in_worker, 100)
    assert naps.acquire(timeout=10)
    two.release()
    assert ahead.done.wait(10)


def test_too_little_shared_memory_is_said_before_a_worker_dies_of_it(monkeypatch):
    usage = collections.namedtuple("Usage", "free")
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: usage(64_000_000))
    with pytest.raises(UserError, match=r"need 250 MB of shared memory, and /dev/shm has 64 MB free: .*--shm-size=8g"):
        Slots(5, 0, (50_000_000,))
    Slots(5, 0, (1000,)).close()


def test_where_shared_memory_is_kept_elsewhere_it_is_not_measured(monkeypatch):
    def absent(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(workers.shutil, "disk_usage", absent)
    Slots(5, 0, (1000,)).close()


@pytest.mark.skipif(not os.path.isdir(workers.SHARED_MEMORY), reason="shared memory is no folder on this system")
def test_closing_gives_the_memory_back():
    made = Slots(2, 0, (3, 2))
    path = os.path.join(workers.SHARED_MEMORY, made._memory.name.lstrip("/"))
    assert os.path.exists(path)
    made.fill(0)[:] = 1
    made.take(0)
    made.close()
    assert not os.path.exists(path)
