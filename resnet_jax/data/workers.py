"""Work done ahead of time by other processes: grain's workers, and what makes them robust.

Work is a function `work(number)`, such as loading the batch of a step. grain starts the processes, distributes the
numbers and returns the results in order. Two things are our own:

- Arrays are handed over in a ring buffer in shared memory (`SharedRingBuffer`). grain can also pass arrays through
  shared memory, but it allocates new memory for each array, which costs more than filling it, and does not free all
  of this memory when a run ends early.
- The work function reaches the workers in a file, and its errors come back in a form that can always be pickled. With
  grain alone, the parent process would wait forever if a worker died early or raised an error that cannot be pickled.
"""

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
from collections.abc import Callable, Generator, Iterator
from multiprocessing import shared_memory
from typing import Any, Generic, TypeVar

import cloudpickle
import cv2
import grain
import jax
import numpy as np
from absl import flags

from resnet_jax.errors import UserError

MAX_DEFAULT_WORKERS = 16
IMAGES_PER_WORKER = 1000  # at least, so that a worker repays its start-up time
RESULTS_AHEAD = 2  # results that each worker keeps ready
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # signals after which training saves before it stops
GRAIN_WORKER_DIED = "Worker process was terminated unexpectedly"  # the start of grain's message

T = TypeVar("T")


# ---------------------------------------------------------------------------------------------------------------------
# Number of workers
# ---------------------------------------------------------------------------------------------------------------------


def useful_workers(num_workers: int, num_images: int) -> int:
    """Cap the number of workers so that each has enough images to repay its start-up time, which is seconds.

    Example:
      >>> useful_workers(8, num_images=3500)
      3
    """
    return min(num_workers, num_images // IMAGES_PER_WORKER)


def default_workers() -> int:
    """Return one worker per core that this process may use, at most `MAX_DEFAULT_WORKERS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_DEFAULT_WORKERS)


def max_prefetched(num_workers: int) -> int:
    """Return how many results may be ready before they are requested."""
    return (num_workers + 1) * RESULTS_AHEAD if num_workers else max(RESULTS_AHEAD, default_workers())


# ---------------------------------------------------------------------------------------------------------------------
# Results and arrays, in order
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def results(work: Callable[[int], T], numbers: range, num_workers: int) -> Iterator[Iterator[T]]:
    """Compute `work(number)` for each of `numbers`, ahead of time, and provide an iterator over the results in order.

    The results do not depend on the number of workers.

    Args:
      work: a picklable function. Its results go through pipes, which takes time if they are large. If it raises an
        error, the iterator raises it.
      numbers: consecutive numbers.
      num_workers: number of processes; 0 uses threads of this process.

    Raises:
      UserError: if a worker dies; the message names it.

    Example:
      >>> with results(lambda number: number**2, range(3, 6), num_workers=0) as squares:
      ...     print(list(squares))
      [9, 16, 25]
    """
    # grain reads absl's flags when it starts workers. Outside of our own command line, nobody has parsed them.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with pickled_to_file(work) if num_workers else contextlib.nullcontext(work) as work:
        yield from _results(PicklableErrors(work), numbers, num_workers)


def _results(work: Callable[[int], T], numbers: range, num_workers: int) -> Iterator[Iterator[T]]:
    threads = 1 if num_workers else default_workers()
    read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(RESULTS_AHEAD, threads))
    data = grain.MapDataset.range(numbers.start, numbers.stop).map(work).to_iter_dataset(read_options)
    if num_workers:
        # Send the results through pipes: grain would not free all of its shared memory if a run ends early.
        use_pipes = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        data = grain.experimental.WithOptionsIterDataset(data, use_pipes)
        options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=RESULTS_AHEAD)
        data = data.mp_prefetch(options, worker_init_fn=_start_worker)
    iterator = iter(data)
    guarded = _raise_if_worker_dies(iterator, num_workers)
    try:
        yield guarded
    finally:
        guarded.close()
        iterator.close()
        del data, iterator, guarded
        gc.collect()  # Otherwise grain's iterators print errors when Python exits.


@contextlib.contextmanager
def arrays(
    fill: Callable[[int, np.ndarray], T], numbers: range, shape: tuple[int, ...], num_workers: int
) -> Iterator[Iterator[tuple[np.ndarray, T]]]:
    """Fill an array for each of `numbers`, ahead of time, and provide an iterator over the arrays in order.

    Args:
      fill: a picklable function; `fill(number, array)` writes into the array and returns a small result.
      numbers: consecutive numbers.
      shape: shape of the arrays, which are uint8.
      num_workers: number of processes; 0 uses threads of this process.

    Raises:
      UserError: if a worker dies, or if there is too little shared memory.
    """
    with contextlib.ExitStack() as stack:
        buffer = None
        if num_workers:
            buffer = SharedRingBuffer(max_prefetched(num_workers), numbers.start, shape)
            stack.callback(buffer.close)
        work = _FillArray(fill, shape, buffer)
        filled = stack.enter_context(results(work, numbers, num_workers))
        if buffer:
            # On exit, this runs before the workers are stopped. A worker that waits for a slot could not stop.
            stack.callback(buffer.release)
        yield ((work.array(number, array), result) for number, (array, result) in zip(numbers, filled, strict=True))


@dataclasses.dataclass(frozen=True)
class _FillArray(Generic[T]):
    """Work that writes its array into the shared buffer, or returns the array if there is no buffer."""

    fill: Callable[[int, np.ndarray], T]
    shape: tuple[int, ...]
    buffer: "SharedRingBuffer | None"

    def __call__(self, number: int) -> tuple[np.ndarray | None, T]:
        if self.buffer:
            return None, self.fill(number, self.buffer.writable_slot(number))
        array = np.empty(self.shape, np.uint8)
        return array, self.fill(number, array)

    def array(self, number: int, returned: np.ndarray | None) -> np.ndarray:
        """In the parent: return the array with this number; `returned` is the array that the call returned."""
        return self.buffer.take(number) if self.buffer else returned  # type: ignore[return-value]  # one of the two exists


# ---------------------------------------------------------------------------------------------------------------------
# Shared memory
# ---------------------------------------------------------------------------------------------------------------------

SHARED_MEMORY = "/dev/shm"  # on Linux; containers often have little
POLL_SECONDS = 0.001
HEADER_BYTES = 8  # size of the header, which precedes the slots and holds `SharedRingBuffer._num_taken`


class SharedRingBuffer:
    """Slots for arrays of one shape in shared memory, filled by workers and emptied by their parent in order.

    Slots are reused, because allocating new memory costs more than filling it. A worker whose next slot is
    still full waits until the parent has taken the array in it.

    Args:
      num_slots: number of slots.
      first: number of the first array.
      shape: shape of the arrays, which are uint8.
    """

    def __init__(self, num_slots: int, first: int, shape: tuple[int, ...]):
        self._num_slots, self._shape = num_slots, shape
        size = HEADER_BYTES + num_slots * math.prod(shape)
        _check_free_memory(size)
        with _block_signals():  # Python starts its resource tracker here.
            self._memory = shared_memory.SharedMemory(create=True, size=size)
        self._set_num_taken(first)

    def writable_slot(self, number: int) -> np.ndarray:
        """In a worker: wait until the slot for this array is free, and return it."""
        while number >= self._num_taken() + self._num_slots:
            time.sleep(POLL_SECONDS)
        return self._slot(number)

    def take(self, number: int) -> np.ndarray:
        """In the parent: return a copy of an array that a worker has filled, and free its slot."""
        array = self._slot(number).copy()
        self._set_num_taken(number + 1)
        return array

    def release(self) -> None:
        """In the parent, when it takes no more arrays: let waiting workers continue."""
        self._set_num_taken(2**62)

    def close(self) -> None:
        """In the parent, at the end: free the memory."""
        self._memory.close()
        self._memory.unlink()

    # No array that views the memory is stored: Python could not close the memory then, and would complain at exit.

    @property
    def _buffer(self) -> memoryview:
        assert self._memory.buf is not None  # It is None only after `close`.
        return self._memory.buf

    def _slot(self, number: int) -> np.ndarray:
        start = HEADER_BYTES + number % self._num_slots * math.prod(self._shape)
        return np.ndarray(self._shape, np.uint8, self._buffer, start)

    def _num_taken(self) -> int:
        """Return n such that all arrays with numbers below n have been taken."""
        return int.from_bytes(self._buffer[:HEADER_BYTES], "little")

    def _set_num_taken(self, number: int) -> None:
        self._buffer[:HEADER_BYTES] = number.to_bytes(HEADER_BYTES, "little")

    def __getstate__(self) -> dict:
        return {"_num_slots": self._num_slots, "_shape": self._shape, "name": self._memory.name}

    def __setstate__(self, state: dict) -> None:
        self._num_slots, self._shape = state["_num_slots"], state["_shape"]
        self._memory = shared_memory.SharedMemory(state["name"])


def _check_free_memory(size: int) -> None:
    """Raise `UserError` if shared memory is too small; a worker that wrote to it would be killed without a message."""
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return  # Not on Linux.
    if size > free:
        raise UserError(
            f"workers need {size / 1e6:,.0f} MB of shared memory, but {SHARED_MEMORY} has only {free / 1e6:,.0f} MB "
            "free. Make it larger (docker run --shm-size=8g), or lower dataset.num_workers or batch_size."
        )


# ---------------------------------------------------------------------------------------------------------------------
# Sending work to workers, and their errors back
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def pickled_to_file(work: Callable[[int], T]) -> Iterator[Callable[[int], T]]:
    """Write `work` to a temporary file, and provide a small equivalent function that reads it from there.

    Python sends the arguments of a new process through a pipe. If they are too large for the pipe's buffer (for
    example, the names of all files of a dataset) and the process dies before it has read them, the parent waits
    forever.
    """
    with tempfile.NamedTemporaryFile() as file:
        cloudpickle.dump(work, file)
        file.flush()
        yield functools.partial(_run_from_file, file.name)


def _run_from_file(path: str, number: int) -> Any:
    return _read_work(path)(number)


@functools.cache
def _read_work(path: str) -> Callable[[int], Any]:
    with open(path, "rb") as file:
        return cloudpickle.load(file)


@dataclasses.dataclass(frozen=True)
class PicklableErrors(Generic[T]):
    """Work whose errors can always be sent to the parent, which would otherwise wait for them forever."""

    work: Callable[[int], T]

    def __call__(self, number: int) -> T:
        try:
            return self.work(number)
        except (SystemExit, StopIteration) as error:  # To the caller, these mean "exit" and "no more results".
            raise RuntimeError(f"the work raised {error!r}") from error
        except Exception as error:
            try:
                can_be_pickled = type(pickle.loads(pickle.dumps(error))) is type(error)
            except Exception:
                can_be_pickled = False
            if can_be_pickled:
                raise
            raise RuntimeError("".join(traceback.format_exception(error))) from None


# ---------------------------------------------------------------------------------------------------------------------
# Start and end of workers
# ---------------------------------------------------------------------------------------------------------------------


def is_worker_starting() -> bool:
    """Return whether this process is a worker that is still starting: Python makes it import the main script first."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def _start_worker(number: int, count: int) -> None:
    """Initialize a worker. grain calls this function in each worker before any work."""
    # Signals may reach all processes, but the main process may need a few more batches before it stops cleanly.
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    # A user's source may use JAX, but the main process already uses the accelerator.
    jax.config.update("jax_platforms", "cpu")
    cv2.setNumThreads(0)  # The workers already share the cores.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this worker when its parent ends, even by SIGKILL; otherwise it would wait for the parent forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:  # Always, in a worker.
        parent.join()
    os._exit(1)


def _raise_if_worker_dies(iterator: Iterator[T], num_workers: int) -> Generator[T, None, None]:
    """Iterate over the results, and raise `UserError` if a worker dies."""
    other_children = set(multiprocessing.active_children())
    workers: list[multiprocessing.process.BaseProcess] = []
    while True:
        try:
            with contextlib.nullcontext() if workers or not num_workers else _block_signals():
                result = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if not (num_workers and str(error).startswith(GRAIN_WORKER_DIED)):
                raise
            raise UserError(_worker_died_message(workers, str(error))) from None
        if len(workers) < num_workers:  # grain starts workers one after another.
            workers = [child for child in multiprocessing.active_children() if child not in other_children]
        yield result


@contextlib.contextmanager
def _block_signals() -> Iterator[None]:
    """Block `STOP_SIGNALS`.

    Processes that are started meanwhile inherit the block. So no such signal ends a worker before `_start_worker` has
    run, and SIGHUP never ends Python's resource tracker, which itself ignores only the other two.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _worker_died_message(workers: list[multiprocessing.process.BaseProcess], message: str) -> str:
    dead = [f"{worker.pid} (exit code {worker.exitcode})" for worker in workers if worker.exitcode not in (None, 0)]
    if not dead:
        exit_code = re.search(r"exit code -?\d+", message)
        return (
            f"a data worker process died while it was starting ({exit_code[0] if exit_code else 'unknown reason'}). "
            'A script of your own must call train inside an `if __name__ == "__main__":` block, or set '
            "dataset.num_workers=0."
        )
    return (
        f"the data worker process {' and '.join(dead)} died. Exit code -9 usually means too little memory; a lower "
        "dataset.num_workers needs less. Run the same command again to resume from the last checkpoint."
    )
