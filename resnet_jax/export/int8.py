"""The accuracy, size and speed of an ONNX file in int8 beside those of the file in float32."""

import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.export.examples import RunExamples
from resnet_jax.export.proof import run_in_fresh_process
from resnet_jax.export.run_file import BATCH_SIZE
from resnet_jax.terminal import Reporter

IMAGES_PER_READ = 64
READS_PER_PROCESS = 32
TIMED_IMAGES = 50  # one by one


class Measurement(NamedTuple):
    """The accuracy of a file on a split, its size and its speed.

    Attributes:
      top1: the fraction of examples that it classifies correctly.
      num_images: the number of examples.
      same_as_first: for how many of them it predicts the same class as the first file.
      num_bytes: the size of the file.
      latency_ms: milliseconds for one image in ONNX Runtime on this machine; the median over the first
        `TIMED_IMAGES` images.
      images_per_second: on this machine, in batches of `run_file.BATCH_SIZE` images; the median over the batches.
    """

    top1: float
    num_images: int
    same_as_first: int
    num_bytes: int
    latency_ms: float
    images_per_second: float


def measure(
    files: Mapping[str, pathlib.Path], scores: str, scored: RunExamples, reporter: Reporter
) -> dict[str, Measurement]:
    """Run several .onnx files on all examples of a split, and return what each achieves, by its name.

    They take turns, so that other load on the machine slows all of them.

    Args:
      files: the files by name.
      scores: the output whose largest value is that of the predicted class.
      scored: the examples.
      reporter: shows the progress.

    Raises:
      UserError: if no image can be read.
    """
    predictions: dict[str, list[np.ndarray]] = {name: [] for name in files}
    seconds: dict[str, list[float]] = {name: [] for name in files}
    labels: list[np.ndarray] = []
    timed_images = np.empty(0)
    show_progress = reporter.counter(f"scoring {scored.name}")
    for images, image_labels in _grouped(scored.batches(IMAGES_PER_READ)):
        if not labels:
            timed_images = images[:TIMED_IMAGES]
        for name, path in files.items():
            outputs = run_in_fresh_process(path, ".onnx", images)
            predictions[name].append(outputs.arrays[scores].argmax(-1))
            seconds[name] += outputs.seconds.tolist()
        labels.append(image_labels)
        show_progress(sum(map(len, labels)), len(scored))
    if not labels:
        raise UserError(f"none of the {scored.name} can be read. Check them with the command inspect.")
    expected = np.concatenate(labels)
    predicted = {name: np.concatenate(arrays) for name, arrays in predictions.items()}
    first = next(iter(predicted.values()))
    latency = {name: run_in_fresh_process(path, ".onnx", timed_images, 1) for name, path in files.items()}
    batch_size = min(BATCH_SIZE, len(expected))
    return {
        name: Measurement(
            top1=float(np.mean(predicted[name] == expected)),
            num_images=len(expected),
            same_as_first=int(np.sum(predicted[name] == first)),
            num_bytes=path.stat().st_size,
            latency_ms=1e3 * float(np.median(latency[name].seconds)),
            images_per_second=batch_size / float(np.median(seconds[name])),
        )
        for name, path in files.items()
    }


def _grouped(batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Join batches of images and labels, `READS_PER_PROCESS` at a time."""
    while group := list(itertools.islice(batches, READS_PER_PROCESS)):
        images, labels = (np.concatenate(arrays) for arrays in zip(*group, strict=True))
        if len(images):
            yield images, labels


def check_drop(measured: Mapping[str, Measurement], images: str, max_drop: float) -> None:
    """Raise `UserError` if "int8" has a lower top-1 than "float32" by more than `max_drop`.

    Args:
      measured: what both files achieve.
      images: what they were scored on, such as "validation images".
      max_drop: the largest drop, in [0, 1].
    """
    before, after = measured["float32"].top1, measured["int8"].top1
    if before - after > max_drop + 1e-9:  # The difference of two floating-point numbers is not exact.
        raise UserError(
            f"int8 would lower the top-1 on {images} from {before:.2%} to {after:.2%}, by more than "
            f"--max_drop={max_drop:g}. Nothing was written. Calibrate with more images (--calibrate), or accept the "
            "loss with a larger --max_drop."
        )
