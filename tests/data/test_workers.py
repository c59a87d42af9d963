import functools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from resnet_jax.data import workers
from resnet_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
SHARED_MEMORY = pathlib.Path("/dev/shm")
SHAPE = (4, 3)


# What workers do is imported there by name.


def fill(number, array):
    array[:] = number
    return f"number {number}"


def fail_at_nine(number, array):
    if number == 9:
        raise UserError("nine is wrong", "and so is its friend")
    return fill(number, array)


def die_at_once(number, array):
    os._exit(7)


class HoldsALock(Exception):
    """What cannot be sent to another process."""

    def __init__(self, what, why):
        super().__init__(f"{what} is {why}")
        self.lock = threading.Lock()


def raise_at_nine(error, number, array):
    if number == 9:
        raise error
    return fill(number, array)


def hold_a_lock_at_nine(number, array):
    if number == 9:
        raise HoldsALock("nine", "locked")
    return fill(number, array)


def started():
    """The worker processes of this test."""
    return multiprocessing.active_children()


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_arrays_come_in_order_whatever_the_number_of_workers(num_workers):
    with workers.arrays(fill, range(7, 30), SHAPE, num_workers) as given:
        arrays, told = zip(*given, strict=True)
    np.testing.assert_array_equal(arrays, np.arange(7, 30)[:, None, None] * np.ones(SHAPE, int))
    assert {array.dtype for array in arrays} == {np.dtype(np.uint8)}
    assert told == tuple(f"number {number}" for number in range(7, 30))
    assert not started()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_work_raises_is_raised_here_when_its_turn_comes(num_workers):
    taken = []
    with (
        pytest.raises(UserError) as raised,
        workers.arrays(fail_at_nine, range(7, 1000), SHAPE, num_workers) as given,
    ):
        taken.extend(told for _, told in given)
    assert raised.value.args == ("nine is wrong", "and so is its friend")
    assert taken == ["number 7", "number 8"]
    assert not started()


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (functools.partial(raise_at_nine, SystemExit(0)), r"the work raised SystemExit\(0\)"),
        (functools.partial(raise_at_nine, StopIteration()), r"the work raised StopIteration\(\)"),
        (hold_a_lock_at_nine, "HoldsALock: nine is locked"),
    ],
    ids=["exit", "stop", "lock"],
)
def test_errors_that_cannot_be_sent_are_told_all_the_same(work, message):
    with pytest.raises(RuntimeError, match=message), workers.arrays(work, range(7, 1000), SHAPE, 1) as given:
        list(given)


def test_workers_go_on_at_ctrl_c_and_one_that_is_killed_is_named_with_its_exit_code():
    with (
        pytest.raises(UserError) as raised,
        workers.arrays(fill, range(10_000), SHAPE, num_workers=2) as given,
    ):
        assert [next(given)[1] for _ in range(2)] == ["number 0", "number 1"]  # One of each: both have started.
        running = started()
        for worker in running:
            os.kill(worker.pid, signal.SIGINT)
        assert [next(given)[1] for _ in range(30)] == [f"number {number}" for number in range(2, 32)]
        assert {worker.exitcode for worker in running} == {None}
        os.kill(running[1].pid, signal.SIGKILL)
        for _ in given:
            pass
    assert f"process {running[1].pid} (exit code -9) died" in str(raised.value)
    assert str(running[0].pid) not in str(raised.value)
    assert "lower dataset.num_workers" in str(raised.value)
    assert not started()


def test_a_worker_that_dies_of_its_first_batch_is_an_error_too():
    with (
        pytest.raises(UserError, match=r"worker process that was starting died \(exit code 7\)"),
        workers.arrays(die_at_once, range(10), SHAPE, num_workers=1) as given,
    ):
        next(given)
    assert not started()


def test_without_workers_results_of_any_kind_come_in_order():
    with workers.results(str, range(3, 8), num_workers=0) as given:
        assert list(given) == ["3", "4", "5", "6", "7"]


def test_as_many_workers_as_cores_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda process: range(3), raising=False)
    assert workers.default_workers() == 3
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda process: range(192), raising=False)
    assert workers.default_workers() == 16


def abandoned():
    """What lies in shared memory and no process uses."""
    used = set()
    for process in psutil.process_iter():
        try:
            used.update(part.path for part in process.memory_maps())
        except (psutil.Error, OSError):  # It has ended, or is another user's.
            continue
    return {str(path) for path in SHARED_MEMORY.glob("*")} - used


def assert_nothing_is_left(before):
    """Other programs may be making shared memory at this moment: only what stays there counts."""
    left = abandoned() - before
    deadline = time.monotonic() + 10
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left &= abandoned()
    assert not left


def start_python(script):
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


HEAD = """
import multiprocessing, time
from absl import flags
from resnet_jax.data import workers
from tests.data.test_workers import SHAPE, fill
"""

USES_WORKERS = """
assert not flags.FLAGS.is_parsed()
with workers.arrays(fill, range(6), SHAPE, 2) as given:
    assert [array.max() for array, _ in given] == [0, 1, 2, 3, 4, 5]
with workers.arrays(fill, range(1000), SHAPE, 1) as given:
    assert next(given)[1] == "number 0"
"""

WAITS = """
with workers.arrays(fill, range(1000), SHAPE, 2) as given:
    next(given)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    time.sleep(1000)
"""

linux_only = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="shared memory is no folder on this system")


@linux_only
def test_a_program_that_used_workers_to_the_end_or_not_leaves_nothing_behind():
    """Nothing in shared memory and no complaint, and grain does not mind absl's flags that nobody has parsed."""
    before = abandoned()
    program = start_python(HEAD + USES_WORKERS)
    output, complaints = program.communicate(timeout=120)
    assert (program.returncode, output, complaints) == (0, b"", b"")
    assert_nothing_is_left(before)


@linux_only
def test_when_the_program_is_killed_its_workers_end_and_shared_memory_is_given_back():
    before = abandoned()
    program = start_python(HEAD + WAITS)
    pids = [int(pid) for pid in program.stdout.readline().split()]
    assert len(pids) == 2
    running = [psutil.Process(pid) for pid in pids]
    program.kill()
    program.communicate(timeout=30)
    _, alive = psutil.wait_procs(running, timeout=10)
    assert not alive
    assert_nothing_is_left(before)
