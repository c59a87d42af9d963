"""Work done ahead of time by other processes: grain's workers, with what it takes to trust them."""

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import cv2
import grain
import jax
import numpy as np
from absl import flags

from resnet_jax.data import remote_work
from resnet_jax.data.slots import Slots
from resnet_jax.errors import UserError

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


def most_ahead(num_workers: int) -> int:
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
    with remote_work.in_a_file(work) if num_workers else contextlib.nullcontext(work) as work:
        yield from _results(remote_work.Telling(work), numbers, num_workers)


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
            slots = Slots(most_ahead(num_workers), numbers.start, shape)
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
