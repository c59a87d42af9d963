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


# Work for worker processes, which import these functions by name.


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
    """An exception that cannot be pickled."""

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


def worker_processes():
    """Return the worker processes of this test."""
    return multiprocessing.active_children()


@pytest.mark.parametrize("num_workers", [0, 3])
def test_arrays_come_in_order_for_any_number_of_workers(num_workers):
    with workers.arrays(fill, range(7, 30), SHAPE, num_workers) as batches:
        arrays, results = zip(*batches, strict=True)
    np.testing.assert_array_equal(arrays, np.arange(7, 30)[:, None, None] * np.ones(SHAPE, int))
    assert {array.dtype for array in arrays} == {np.dtype(np.uint8)}
    assert results == tuple(f"number {number}" for number in range(7, 30))
    assert not worker_processes()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_of_work_are_raised_in_order(num_workers):
    taken = []
    with (
        pytest.raises(UserError) as raised,
        workers.arrays(fail_at_nine, range(7, 1000), SHAPE, num_workers) as batches,
    ):
        taken.extend(result for _, result in batches)
    assert raised.value.args == ("nine is wrong", "and so is its friend")
    assert taken == ["number 7", "number 8"]
    assert not worker_processes()


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (functools.partial(raise_at_nine, SystemExit(0)), r"the work raised SystemExit\(0\)"),
        (hold_a_lock_at_nine, "HoldsALock: nine is locked"),
    ],
    ids=["exit", "lock"],
)
def test_errors_that_cannot_be_pickled_are_raised(work, message):
    with pytest.raises(RuntimeError, match=message), workers.arrays(work, range(7, 1000), SHAPE, 1) as batches:
        list(batches)


def test_stop_iteration_of_the_work_is_an_error():
    with pytest.raises(RuntimeError, match=r"the work raised StopIteration\(\)"):
        workers.PicklableErrors(functools.partial(raise_at_nine, StopIteration(), array=None))(9)


def test_workers_ignore_signals_to_stop_and_a_killed_worker_is_named_with_its_exit_code():
    """A terminal sends Ctrl-C, and SIGHUP when it is closed, to all processes."""
    with (
        pytest.raises(UserError) as raised,
        workers.arrays(fill, range(10_000), SHAPE, num_workers=2) as batches,
    ):
        # One from each worker, so both have started.
        assert [next(batches)[1] for _ in range(2)] == ["number 0", "number 1"]
        running = worker_processes()
        for worker in running:
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(worker.pid, signum)
        assert [next(batches)[1] for _ in range(30)] == [f"number {number}" for number in range(2, 32)]
        assert {worker.exitcode for worker in running} == {None}
        os.kill(running[1].pid, signal.SIGKILL)
        for _ in batches:
            pass
    assert f"process {running[1].pid} (exit code -9) died" in str(raised.value)
    assert str(running[0].pid) not in str(raised.value)
    assert "lower dataset.num_workers" in str(raised.value)
    assert not worker_processes()


def test_worker_that_dies_while_starting_is_reported():
    with (
        pytest.raises(UserError, match=r"worker process died while it was starting \(exit code 7\)"),
        workers.arrays(die_at_once, range(10), SHAPE, num_workers=1) as batches,
    ):
        next(batches)
    assert not worker_processes()


def test_results_without_workers_can_be_any_objects():
    with workers.results(str, range(3, 8), num_workers=0) as batches:
        assert list(batches) == ["3", "4", "5", "6", "7"]


def test_default_workers_are_the_cores_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda process: range(3), raising=False)
    assert workers.default_workers() == 3
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda process: range(192), raising=False)
    assert workers.default_workers() == 16


def unused_shared_memory():
    """Return the files in shared memory that no process uses."""
    used = set()
    for process in psutil.process_iter():
        try:
            used.update(memory.path for memory in process.memory_maps())
        except (psutil.Error, OSError):  # The process has ended or belongs to another user.
            continue
    return {str(path) for path in SHARED_MEMORY.glob("*")} - used


def assert_no_leaks(before):
    """Check that all unused shared memory was there `before`.

    Wait up to ten seconds for this, because other programs may be creating shared memory at this moment.
    """
    left = unused_shared_memory() - before
    deadline = time.monotonic() + 10
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left &= unused_shared_memory()
    assert not left


def start_python(script):
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


IMPORTS = """
import multiprocessing, time
from absl import flags
from resnet_jax.data import workers
from tests.data.test_workers import SHAPE, fill
"""

USES_WORKERS = """
assert not flags.FLAGS.is_parsed()
with workers.arrays(fill, range(6), SHAPE, 2) as batches:
    assert [array.max() for array, _ in batches] == [0, 1, 2, 3, 4, 5]
with workers.arrays(fill, range(1000), SHAPE, 1) as batches:
    assert next(batches)[1] == "number 0"
"""

WAITS = """
with workers.arrays(fill, range(1000), SHAPE, 2) as batches:
    next(batches)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    time.sleep(1000)
"""

linux_only = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="shared memory is not a directory on this system")


@linux_only
@pytest.mark.slow
def test_program_that_used_workers_leaves_nothing_behind():
    """The program leaves no shared memory and prints nothing, although absl flags, which grain uses, are not parsed."""
    before = unused_shared_memory()
    program = start_python(IMPORTS + USES_WORKERS)
    output, errors = program.communicate(timeout=120)
    assert (program.returncode, output, errors) == (0, b"", b"")
    assert_no_leaks(before)


@linux_only
@pytest.mark.slow
def test_killed_program_leaves_no_workers_and_no_shared_memory():
    before = unused_shared_memory()
    program = start_python(IMPORTS + WAITS)
    pids = [int(pid) for pid in program.stdout.readline().split()]
    assert len(pids) == 2
    running = [psutil.Process(pid) for pid in pids]
    program.kill()
    program.communicate(timeout=30)
    _, alive = psutil.wait_procs(running, timeout=10)
    assert not alive
    assert_no_leaks(before)
