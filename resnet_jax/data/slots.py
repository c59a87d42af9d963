"""Memory that processes share, in which workers hand over batches."""

import math
import shutil
import time
from multiprocessing import shared_memory

import numpy as np

from resnet_jax.errors import UserError

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
