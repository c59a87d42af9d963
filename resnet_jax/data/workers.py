"""Work done ahead of time by other processes: grain's workers, with what it takes to trust them."""

import contextlib
import dataclasses
import functools
import gc
import math
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from typing import TypeVar

import cloudpickle
import cv2
import grain
import jax
import numpy as np
from absl import flags

from resnet_jax.errors import UserError

# --- Memory that processes share, in which workers hand over batches.


SHARED_MEMORY = "/dev/shm"  # where Linux keeps it; containers often have little
WAIT_SECONDS = 0.001
HEAD = 8  # bytes before the arrays, which say how many have been taken


class Slots:
    """Arrays of one shape that are filled in by workers and taken by their parent, in the order of their numbers.

    They are used again and again: to have the system make new memory costs more than to fill it. A worker that is ahead
    waits until the parent has taken what lies in its slot.
    """

    def __init__(self, count: int, first: int, shape: tuple[int, ...]):
        """Makes `count` slots of uint8 `shape`, for arrays that are numbered from `first` on."""
        self._count, self._shape = count, shape
        size = HEAD + count * math.prod(shape)
        _check_room(size)
        self._memory = shared_memory.SharedMemory(create=True, size=size)
        self._set_taken(first)

    def fill(self, number: int) -> np.ndarray:
        """In a worker: where to write an array, once the slot is free."""
        while number >= self._taken() + self._count:
            time.sleep(WAIT_SECONDS)
        return self._array(number)

    def take(self, number: int) -> np.ndarray:
        """In the parent: a copy of an array that a worker has filled in; its slot is free from then on."""
        array = self._array(number).copy()
        self._set_taken(number + 1)
        return array

    def release(self) -> None:
        """In the parent, which takes no more: workers need not wait any longer."""
        self._set_taken(2**62)

    def close(self) -> None:
        """In the parent, at the end: gives the memory back."""
        self._memory.close()
        self._memory.unlink()

    # No array over the memory is kept: Python could not close it then, and would say so when it exits.

    def _array(self, number: int) -> np.ndarray:
        start = HEAD + number % self._count * math.prod(self._shape)
        return np.ndarray(self._shape, np.uint8, self._memory.buf, start)

    def _taken(self) -> int:
        """All arrays of lower numbers have been taken."""
        return int.from_bytes(self._memory.buf[:HEAD], "little")

    def _set_taken(self, number: int) -> None:
        self._memory.buf[:HEAD] = number.to_bytes(HEAD, "little")

    def __getstate__(self) -> dict:
        return {"_count": self._count, "_shape": self._shape, "name": self._memory.name}

    def __setstate__(self, state: dict) -> None:
        self._count, self._shape = state["_count"], state["_shape"]
        self._memory = shared_memory.SharedMemory(state["name"])


def _check_room(size: int) -> None:
    """Writing to shared memory that is not there would kill a worker without a word."""
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return  # Not on Linux.
    if size > free:
        raise UserError(
            f"workers need {size / 1e6:,.0f} MB of shared memory, and {SHARED_MEMORY} has {free / 1e6:,.0f} MB free: "
            "make it larger (docker run --shm-size=8g), or lower dataset.num_workers or batch_size"
        )


# --- Work that is done in other processes: how it gets there, and how its errors come back.


T = TypeVar("T")


@contextlib.contextmanager
def in_a_file(work: Callable[[int], T]) -> Iterator[Callable[[int], T]]:
    """The same work, which workers read from a file.

    What Python sends to a process that it starts goes through a pipe, and more than the pipe holds, such as the names
    of all files, would keep it waiting forever if that process died before it had read it.
    """
    with tempfile.NamedTemporaryFile() as file:
        cloudpickle.dump(work, file)
        file.flush()
        yield functools.partial(_run_from_file, file.name)


def _run_from_file(path: str, number: int) -> object:
    return _read_work(path)(number)


@functools.cache
def _read_work(path: str) -> Callable[[int], object]:
    with open(path, "rb") as file:
        return cloudpickle.load(file)


@dataclasses.dataclass(frozen=True)
class Telling:
    """Work whose errors reach the parent, whatever they are: it waits forever for what cannot be sent to it."""

    work: Callable[[int], object]

    def __call__(self, number: int) -> object:
        try:
            return self.work(number)
        except (SystemExit, StopIteration) as error:  # They mean something else to those who run the work.
            raise RuntimeError(f"the work raised {error!r}") from error
        except Exception as error:
            try:
                faithful = type(pickle.loads(pickle.dumps(error))) is type(error)
            except Exception:
                faithful = False
            if faithful:
                raise
            raise RuntimeError("".join(traceback.format_exception(error))) from None


MOST_WORKERS = 16  # where the number is chosen
WORTH_A_WORKER = 1000  # pictures
RESULTS_AHEAD = 2  # that each worker has ready
DEATH_OF_A_WORKER = "Worker process was terminated unexpectedly"  # as grain says it

T = TypeVar("T")


def worthwhile(num_workers: int, pictures: int) -> int:
    """Of so many workers those that are worth their start, which takes seconds, for so many pictures."""
    return min(num_workers, pictures // WORTH_A_WORKER)


def is_starting() -> bool:
    """Whether this is a worker that is just reading the script which started it, as Python has them do."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def default_workers() -> int:
    """One for each core that this process may use, up to a limit."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), MOST_WORKERS)


def max_prefetched(num_workers: int) -> int:
    """How many results may be ready before they are asked for."""
    return (num_workers + 1) * RESULTS_AHEAD if num_workers else max(RESULTS_AHEAD, default_workers())


@contextlib.contextmanager
def results(work: Callable[[int], T], numbers: range, num_workers: int) -> Iterator[Iterator[T]]:
    """Gives `work(number)` for each of `numbers`, in order, computed ahead of time by `num_workers` processes.

    What comes out does not depend on how many workers there are. With none, threads of this process do the work.

    Args:
      work: a picklable function with small results; what it raises is raised here.
      numbers: consecutive ones.
      num_workers: how many processes.

    Raises:
      UserError: if a worker dies, naming it.
    """
    if not flags.FLAGS.is_parsed():  # Outside of our own command line; grain reads its flags when it starts workers.
        flags.FLAGS.mark_as_parsed()
    with in_a_file(work) if num_workers else contextlib.nullcontext(work) as work:
        yield from _results(Telling(work), numbers, num_workers)


def _results(work: Callable[[int], T], numbers: range, num_workers: int) -> Iterator[Iterator[T]]:
    threads = 1 if num_workers else default_workers()
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(RESULTS_AHEAD, threads))
    data = grain.MapDataset.range(numbers.start, numbers.stop).map(work).to_iter_dataset(ahead)
    if num_workers:
        # Small results are sent as they are: in shared memory of grain's some would be left when a run ends early.
        piped = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        data = grain.experimental.WithOptionsIterDataset(data, piped)
        options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=RESULTS_AHEAD)
        data = data.mp_prefetch(options, worker_init_fn=_start_worker)
    iterator = iter(data)
    guarded = _guarded(iterator, num_workers)
    try:
        yield guarded
    finally:
        guarded.close()
        iterator.close()
        del data, iterator, guarded
        gc.collect()  # What is left of grain's iterators would complain when Python exits.


@contextlib.contextmanager
def arrays(
    fill: Callable[[int, np.ndarray], T], numbers: range, shape: tuple[int, ...], num_workers: int
) -> Iterator[Iterator[tuple[np.ndarray, T]]]:
    """As `results`, of work that fills in an array: gives uint8 `shape` and what `fill(number, array)` returns."""
    with contextlib.ExitStack() as stack:
        slots = None
        if num_workers:
            slots = Slots(max_prefetched(num_workers), numbers.start, shape)
            stack.callback(slots.close)
        work = _Filling(fill, shape, slots)
        given = stack.enter_context(results(work, numbers, num_workers))
        if slots:
            stack.callback(slots.release)  # At the end, first of all: workers that wait for a slot could not end.
        yield ((work.array(number, result[0]), result[1]) for number, result in zip(numbers, given, strict=True))


@dataclasses.dataclass(frozen=True)
class _Filling:
    """Work that leaves its array in a slot, or returns it where there are none."""

    fill: Callable[[int, np.ndarray], object]
    shape: tuple[int, ...]
    slots: Slots | None

    def __call__(self, number: int) -> tuple[np.ndarray | None, object]:
        if self.slots:
            return None, self.fill(number, self.slots.fill(number))
        array = np.empty(self.shape, np.uint8)
        return array, self.fill(number, array)

    def array(self, number: int, returned: np.ndarray | None) -> np.ndarray:
        return self.slots.take(number) if self.slots else returned


def _guarded(iterator: Iterator[T], num_workers: int) -> Iterator[T]:
    others = set(multiprocessing.active_children())
    workers: list[multiprocessing.Process] = []
    while True:
        try:
            with contextlib.nullcontext() if workers or not num_workers else _without_interrupts():
                result = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if not (num_workers and str(error).startswith(DEATH_OF_A_WORKER)):
                raise
            raise UserError(_obituary(workers, str(error))) from None
        if len(workers) < num_workers:  # They start one after another.
            workers = [child for child in multiprocessing.active_children() if child not in others]
        yield result


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Has processes that are started here inherit that signals are put off, until they know what to do about them."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obituary(workers: list[multiprocessing.Process], message: str) -> str:
    dead = [f"{worker.pid} (exit code {worker.exitcode})" for worker in workers if worker.exitcode not in (None, 0)]
    if not dead:
        exit_code = re.search(r"exit code -?\d+", message)
        return (
            f"a data worker process that was starting died ({exit_code[0] if exit_code else 'for no known reason'}): a "
            'script of your own must train under if __name__ == "__main__":, or with dataset.num_workers=0'
        )
    return (
        f"the data worker process {' and '.join(dead)} died; -9 is mostly a want of memory, of which a lower "
        "dataset.num_workers takes less. The same command goes on from the last checkpoint"
    )


def _start_worker(number: int, count: int) -> None:
    """Runs in each worker, first of all."""
    for signum in (signal.SIGINT, signal.SIGTERM):  # They may reach all processes; the main one still needs its data.
        signal.signal(signum, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu")  # Should a source of one's own use JAX: the accelerator is taken.
    cv2.setNumThreads(0)  # The workers share the cores already.
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Ends this worker when its parent is gone, were it by SIGKILL; it would wait for it forever."""
    multiprocessing.parent_process().join()
    os._exit(1)
