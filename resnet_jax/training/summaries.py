"""What a run records as it goes: `metrics.jsonl` always, TensorBoard where TensorFlow is installed.

Both hold each step once: what lies beyond the step that a run resumes from is dropped from them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from resnet_jax import files, parallel
from resnet_jax.terminal import ProgressLine

EVENT_FILES = "events.out.tfevents.*"


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


class Summaries:
    """Writes figures and pictures by step, from the main process only.

    Unless `evaluated`, the figures of the validation at the step that the run resumes from are dropped as well.
    """

    def __init__(self, directory: epath.Path, resumed_step: int, progress: ProgressLine, evaluated: bool = True):
        self._path = directory / "metrics.jsonl"
        self._can_append = "://" not in str(directory)  # Buckets take whole files only.
        self._lines: list[str] = []
        self._tensorboard = None
        if not parallel.is_main_process():
            return

        def is_kept(step: int, names: Iterable[str]) -> bool:
            owed = not evaluated and any(name.startswith("validation/") for name in names)
            return step < resumed_step or (step == resumed_step and not owed)

        _keep_lines(self._path, is_kept, progress.warn)
        try:
            # Imports TensorFlow, which takes seconds, and which not everyone has.
            from clu import metric_writers
        except ImportError as error:
            progress.print(f"TensorBoard is off, for {error.name} is not installed; metrics.jsonl has its figures.")
            return
        for path in directory.glob(EVENT_FILES):
            if resumed_step == 0:  # The run begins anew.
                path.unlink()
            else:
                _keep_events(path, is_kept)
        self._tensorboard = metric_writers.SummaryWriter(str(directory))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of `step`, named like "train/loss"."""
        self._lines.append(json.dumps({"step": step, **values}) + "\n")
        if self._tensorboard:
            self._tensorboard.write_scalars(step, values)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture, uint8 [height, width, 3], for TensorBoard."""
        if self._tensorboard:
            self._tensorboard.write_images(step, {name: pixels[None]})

    def text(self, step: int, name: str, text: str) -> None:
        """Text, for TensorBoard."""
        if self._tensorboard:
            self._tensorboard.write_texts(step, {name: text})

    def flush(self) -> None:
        """Puts on disk what has been written; must come before a checkpoint that counts on it."""
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

    def close(self) -> None:
        self.flush()
        if self._tensorboard:
            self._tensorboard.close()


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


def _keep_events(path: epath.Path, is_kept: Callable[[int, Iterable[str]], bool]) -> None:
    """Drops other events from a TensorBoard event file."""
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
