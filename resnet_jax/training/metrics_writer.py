"""What a run records as it goes: `metrics.jsonl` always, TensorBoard where TensorFlow is installed.

Both hold each step once: what lies beyond the step that a run resumes from is dropped from them.
"""

import collections
import contextlib
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from etils import epath

from resnet_jax import files
from resnet_jax.runtime import parallel
from resnet_jax.terminal import ProgressLine

# --- TensorBoard's event files.
#
# A thread of its own writes them: TensorFlow takes seconds to import, in which the run need not wait.


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


SECONDS_BETWEEN_WRITES = 1.0


class Curve(NamedTuple):
    """How a figure went: its values, and the steps after which it had them, in order."""

    steps: list[int]
    values: list[float]


def read_curves(directory: epath.Path) -> dict[str, Curve]:
    """What `metrics.jsonl` of a run directory holds, by names like "train/loss"; {} where there is no such file."""
    curves: dict[str, Curve] = {}
    for _, record in _records(directory / "metrics.jsonl"):
        step = record.pop("step")
        for name, value in record.items():
            curve = curves.setdefault(name, Curve([], []))
            curve.steps.append(step)
            curve.values.append(value)
    return curves


class MetricsWriter:
    """Writes figures and pictures by step, from the main process only.

    Unless `evaluated`, the figures of the validation at the step that the run resumes from are dropped as well.
    """

    def __init__(self, directory: epath.Path, resumed_step: int, progress: ProgressLine, evaluated: bool = True):
        self._path = directory / "metrics.jsonl"
        self._can_append = "://" not in str(directory)  # Buckets take whole files only.
        self._lines: list[str] = []
        self._written_at = -math.inf
        self._tensorboard = None
        if not parallel.is_main_process():
            return

        def is_kept(step: int, names: Iterable[str]) -> bool:
            owed = not evaluated and any(name.startswith("validation/") for name in names)
            return step < resumed_step or (step == resumed_step and not owed)

        _keep_lines(self._path, is_kept, progress.warn)
        # Of a run that begins anew nothing is kept.
        self._tensorboard = TensorBoard(directory, is_kept if resumed_step else None, progress.print)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of `step`, named like "train/loss"."""
        self._lines.append(json.dumps({"step": step, **values}) + "\n")
        if self._tensorboard:
            self._tensorboard.scalars(step, values)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture, uint8 [height, width, 3], for TensorBoard."""
        if self._tensorboard:
            self._tensorboard.images(step, {name: pixels[None]})

    def text(self, step: int, name: str, text: str) -> None:
        """Text, for TensorBoard."""
        if self._tensorboard:
            self._tensorboard.texts(step, {name: text})

    def show(self) -> None:
        """Writes, unless that was done a moment ago: a loop of quick steps must not be held up by the disk."""
        if time.monotonic() - self._written_at >= SECONDS_BETWEEN_WRITES:
            self.write()

    def flush(self) -> None:
        """Puts on disk what has been written; must come before a checkpoint that counts on it."""
        self.write()
        if self._tensorboard:
            self._tensorboard.wait()

    def write(self) -> None:
        """Puts the figures on disk, and does not wait for TensorBoard, which does so too."""
        lines, self._lines = self._lines, []  # Taken first: after a failure they must not be written twice.
        if lines and parallel.is_main_process():
            if self._can_append:
                with self._path.open("a") as file:
                    file.write("".join(lines))
                    files.put_on_disk(file)
            else:
                before = self._path.read_text() if self._path.exists() else ""
                self._path.write_text(before + "".join(lines))
        if self._tensorboard:
            self._tensorboard.flush()
        self._written_at = time.monotonic()

    def close(self) -> None:
        """Puts on disk what has been written, and ends TensorBoard's thread."""
        with contextlib.ExitStack() as ending:
            if self._tensorboard:
                ending.callback(self._tensorboard.close)
            self.write()


def _keep_lines(path: epath.Path, is_kept: Callable[[int, Iterable[str]], bool], tell: Callable[[str], None]) -> None:
    """Drops other lines from a metrics file, and what is damaged; `tell` takes a line on the latter."""
    if path.exists():
        kept = [line + "\n" for line, record in _records(path, tell) if is_kept(record["step"], record)]
        files.write(path, "".join(kept))


def _records(
    path: epath.Path, tell: Callable[[str], None] = lambda line: None
) -> Iterator[tuple[str, dict[str, float]]]:
    """The lines of a metrics file that are intact, and what they hold.

    Of the last one a killed process or a full disk may have left a part, which goes without saying.
    """
    lines = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            figures = {**{name: float(value) for name, value in record.items()}, "step": int(record["step"])}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            if number < len(lines):
                tell(f"Line {number} of {path} is damaged, and is left out.")
            continue
        yield line, figures
