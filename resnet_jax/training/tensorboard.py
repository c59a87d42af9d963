"""TensorBoard's event files.

A thread of its own writes them: TensorFlow takes seconds to import, in which the run need not wait.
"""

import collections
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from etils import epath

from resnet_jax import files

EVENT_FILES = "events.out.tfevents.*"
NEEDED = ("clu", "tensorflow", "tensorboard")  # packages; clu imports the others without declaring them

IsKept = Callable[[int, Iterable[str]], bool]


class TensorBoard:
    """Writes to event files, in order and some time later; where TensorFlow is not installed, nowhere.

    What goes wrong in the thread is raised by a later call.

    Args:
      directory: of the run.
      is_kept: which events of earlier files stay, from the step and the names of their values; None: none.
      tell: takes a line where a package is missing.
    """

    def __init__(self, directory: epath.Path, is_kept: IsKept | None, tell: Callable[[str], None]):
        missing = next((name for name in NEEDED if importlib.util.find_spec(name) is None), None)
        if missing:
            tell(f"TensorBoard is off, for {missing} is not installed; metrics.jsonl has its figures.")
        self._thread = None if missing else ThreadPoolExecutor(1, "tensorboard")
        self._unfinished: collections.deque[Future] = collections.deque()
        self._do(self._open, directory, is_kept)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write("write_scalars", step, values)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """uint8 [n, height, width, channels] each."""
        self._write("write_images", step, images)

    def texts(self, step: int, texts: Mapping[str, str]) -> None:
        self._write("write_texts", step, texts)

    def flush(self) -> None:
        """Has all be put on disk, and does not wait for it."""
        self._write("flush")

    def wait(self) -> None:
        """Returns when the thread has nothing left to do."""
        while self._unfinished:
            self._unfinished.popleft().result()

    def close(self) -> None:
        """Ends the thread, when all is on disk."""
        try:
            self._write("close")
            self.wait()
        finally:
            if self._thread:
                self._thread.shutdown(wait=False, cancel_futures=True)

    def _write(self, method: str, *arguments) -> None:
        self._do(lambda: getattr(self._writer, method)(*arguments))

    def _do(self, task: Callable, *arguments) -> None:
        """Hands a task to the thread."""
        while self._unfinished and self._unfinished[0].done():
            self._unfinished.popleft().result()
        if self._thread:
            self._unfinished.append(self._thread.submit(task, *arguments))

    def _open(self, directory: epath.Path, is_kept: IsKept | None) -> None:
        from clu import metric_writers  # Imports TensorFlow.

        for path in directory.glob(EVENT_FILES):
            if is_kept is None:
                path.unlink()
            else:
                _keep_events(path, is_kept)
        self._writer = metric_writers.SummaryWriter(str(directory))


def _keep_events(path: epath.Path, is_kept: IsKept) -> None:
    """Drops other events from an event file."""
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    kept = path.parent / f".{path.name}.unfinished"
    with tf.io.TFRecordWriter(str(kept)) as writer:
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            if is_kept(event.step, [value.tag for value in event.summary.value]):
                writer.write(record)
    if "://" not in str(kept):
        with kept.open("ab") as file:
            files.put_on_disk(file)
    kept.replace(path)
