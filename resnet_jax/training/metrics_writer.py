"""Writers for the metrics of a run: always to `metrics.jsonl`, and to TensorBoard if its packages are installed.

Both hold each step once: when a run resumes, the records of steps after the restored checkpoint are removed from both.

We do not use `clu.metric_writers.AsyncWriter` in place of the thread in `TensorBoardWriter`, for three reasons:

- Importing `AsyncWriter` imports TensorFlow, which takes seconds. In `TensorBoardWriter`, the thread imports it.
- The `flush` of `AsyncWriter` always waits.
- `AsyncWriter` replaces an `OSError` such as "No space left on device" by an exception of its own.
"""

import collections
import contextlib
import importlib.util
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from etils import epath

from resnet_jax import files
from resnet_jax.runtime import parallel

SECONDS_BETWEEN_WRITES = 1.0
EVENT_FILES = "events.out.tfevents.*"
TENSORBOARD_PACKAGES = ("clu", "tensorflow", "tensorboard")  # clu imports the other two without declaring them

KeepRecord = Callable[[int, Iterable[str]], bool]  # maps a step and the names of its values to whether to keep them

logger = logging.getLogger(__name__)


class MetricsWriter:
    """Writes metrics, images and text by step. Processes other than the main one write nothing.

    Args:
      directory: the run directory.
      resumed_step: the step from which the run resumes; 0 for a new run. Later records are removed from `metrics.jsonl`
        and from the event files.
      evaluated: False if the evaluation at `resumed_step` was interrupted and will be repeated. The validation metrics
        of that step are then removed.
    """

    def __init__(self, directory: epath.Path, resumed_step: int, evaluated: bool = True):
        self._path = directory / "metrics.jsonl"
        self._can_append = "://" not in str(directory)  # Object stores accept whole files only.
        self._lines: list[str] = []
        self._written_at = -math.inf
        self._tensorboard = None
        if not parallel.is_main_process():
            return

        def keep(step: int, names: Iterable[str]) -> bool:
            to_be_repeated = not evaluated and any(name.startswith("validation/") for name in names)
            return step < resumed_step or (step == resumed_step and not to_be_repeated)

        _filter_metrics_file(self._path, keep)
        # In the directory of a new run, all existing event files are removed.
        self._tensorboard = TensorBoardWriter(directory, keep if resumed_step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record the metrics of a step, with names such as "train/loss"."""
        self._lines.append(json.dumps({"step": step, **values}) + "\n")
        if self._tensorboard:
            self._tensorboard.scalars(step, values)

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Write an image, uint8 [height, width, 3], to TensorBoard."""
        if self._tensorboard:
            self._tensorboard.images(step, {tag: pixels[None]})

    def text(self, step: int, tag: str, text: str) -> None:
        """Write a text, which may be Markdown, to TensorBoard."""
        if self._tensorboard:
            # Event files hold UTF-8, but the path of a dataset may be anything.
            self._tensorboard.texts(step, {tag: text.encode(errors="replace").decode()})

    def write_if_due(self) -> None:
        """Call `write` at most once per `SECONDS_BETWEEN_WRITES`, so that the disk does not slow down short steps."""
        if time.monotonic() - self._written_at >= SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Write all recorded metrics to disk. Does not wait for TensorBoard, which writes in the background."""
        # Clear the list first, so that a failed write is not repeated.
        lines, self._lines = self._lines, []
        if lines and parallel.is_main_process():
            if self._can_append:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write("".join(lines))
                    files.sync_to_disk(file)
            else:
                existing = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
                self._path.write_text(existing + "".join(lines), encoding="utf-8")
        if self._tensorboard:
            self._tensorboard.flush()
        self._written_at = time.monotonic()

    def flush(self) -> None:
        """Write everything to disk, and wait for TensorBoard. Call it before saving a checkpoint."""
        self.write()
        if self._tensorboard:
            self._tensorboard.wait()

    def close(self) -> None:
        """Write everything to disk, and end TensorBoard's thread, even if writing fails."""
        with contextlib.ExitStack() as stack:
            if self._tensorboard:
                stack.callback(self._tensorboard.close)
            self.write()


# --- Reading and filtering metrics.jsonl ------------------------------------------------------------------------------


class Curve(NamedTuple):
    """A metric over a run.

    Attributes:
      steps: the numbers of steps taken when the metric was recorded, in order.
      values: its value at each of `steps`.
    """

    steps: list[int]
    values: list[float]


def read_curves(directory: epath.Path) -> dict[str, Curve]:
    """Return the metrics of a run directory by names such as "train/loss"; {} if there is no `metrics.jsonl`.

    Example:
      >>> import tempfile
      >>> directory = epath.Path(tempfile.mkdtemp())
      >>> _ = (directory / "metrics.jsonl").write_text('{"step": 50, "train/loss": 1.5}\\n')
      >>> read_curves(directory)
      {'train/loss': Curve(steps=[50], values=[1.5])}
    """
    curves: dict[str, Curve] = {}
    for _, step, values in _read_records(directory / "metrics.jsonl"):
        for name, value in values.items():
            curve = curves.setdefault(name, Curve([], []))
            curve.steps.append(int(step))
            curve.values.append(value)
    return curves


def _filter_metrics_file(path: epath.Path, keep: KeepRecord) -> None:
    """Remove the lines of a metrics file that are damaged or that `keep` rejects."""
    if path.exists():
        records = _read_records(path, log_damage=True)
        files.write(path, "".join(line + "\n" for line, step, values in records if keep(step, values)))


def _read_records(path: epath.Path, log_damage: bool = False) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Yield each intact line of a metrics file with its step and its values by name.

    With `log_damage`, warn about each damaged line except the last line of the file, which a killed process or a full
    disk may have left unfinished.
    """
    lines = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            step = int(record.pop("step"))
            values = {name: float(value) for name, value in record.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            if log_damage and number < len(lines):
                logger.warning(f"Line {number} of {path} is damaged and is removed.")
            continue
        yield line, step, values


# --- TensorBoard's event files ----------------------------------------------------------------------------------------


class TensorBoardWriter:
    """Writes event files in a separate thread, in the order of the calls.

    Does nothing if one of `TENSORBOARD_PACKAGES` is missing. The thread also imports TensorFlow, which takes seconds,
    so that training does not wait for the import. An exception in the thread is raised by a later call.

    Args:
      directory: the run directory.
      keep: returns whether to keep an event of the existing event files. None: remove these files.
    """

    def __init__(self, directory: epath.Path, keep: KeepRecord | None):
        missing = next((name for name in TENSORBOARD_PACKAGES if importlib.util.find_spec(name) is None), None)
        self._thread = None
        self._unfinished: collections.deque[Future] = collections.deque()
        if missing:
            logger.info(
                f"TensorBoard is off, because {missing} is not installed. metrics.jsonl holds the metrics. "
                'To turn it on, run in a checkout of this project: pip install ".[tensorboard]"'
            )
            return
        self._thread = ThreadPoolExecutor(1, "tensorboard")
        self._submit(self._open, directory, keep)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._submit_write("write_scalars", step, values)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Write images by tag, each uint8 [n, height, width, channels]."""
        self._submit_write("write_images", step, images)

    def texts(self, step: int, texts: Mapping[str, str]) -> None:
        self._submit_write("write_texts", step, texts)

    def flush(self) -> None:
        """Let the thread write everything to disk, without waiting for it."""
        self._submit_write("flush")

    def wait(self) -> None:
        """Wait until the thread has finished its work."""
        while self._unfinished:
            self._unfinished.popleft().result()

    def close(self) -> None:
        """Wait until everything is on disk, and end the thread."""
        try:
            self._submit_write("close")
            self.wait()
        finally:
            if self._thread:
                self._thread.shutdown(wait=False, cancel_futures=True)

    def _submit_write(self, method: str, *args) -> None:
        """Call a method of clu's writer in the thread."""
        self._submit(lambda: getattr(self._writer, method)(*args))

    def _submit(self, function: Callable, *args) -> None:
        """Call a function in the thread. First raise the exception of an earlier call, if there is one."""
        while self._unfinished and self._unfinished[0].done():
            self._unfinished.popleft().result()
        if self._thread:
            self._unfinished.append(self._thread.submit(function, *args))

    def _open(self, directory: epath.Path, keep: KeepRecord | None) -> None:
        from clu import metric_writers  # Imports TensorFlow.

        for path in directory.glob(EVENT_FILES):
            if keep is None:
                path.unlink()
            else:
                _filter_event_file(path, keep)
        self._writer = metric_writers.SummaryWriter(str(directory))


def _filter_event_file(path: epath.Path, keep: KeepRecord) -> None:
    """Remove the events of an event file that `keep` rejects."""
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    unfinished = path.parent / f".{path.name}.unfinished"
    with tf.io.TFRecordWriter(str(unfinished)) as writer:
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            if keep(event.step, [value.tag for value in event.summary.value]):
                writer.write(record)
    if "://" not in str(unfinished):
        with unfinished.open("ab") as file:
            files.sync_to_disk(file)
    unfinished.replace(path)
