"""Work that is done in other processes: how it gets there, and how its errors come back."""

import contextlib
import dataclasses
import functools
import pickle
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import cloudpickle

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
