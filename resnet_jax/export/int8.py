"""The accuracy, size and speed of an ONNX file in int8 beside those of the file in float32."""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.export.examples import Split
from resnet_jax.export.proof import run_in_fresh_process
from resnet_jax.export.run_file import BATCH_SIZE
from resnet_jax.terminal import Reporter

IMAGES_PER_PROCESS = 2_048


class Measurement(NamedTuple):
    """What a file achieves on the validation examples.

    Attributes:
      top1: the fraction of examples that it classifies correctly.
      num_images: the number of examples.
      num_bytes: the size of the file.
      images_per_second: in ONNX Runtime on this machine; the median over batches.
    """

    top1: float
    num_images: int
    num_bytes: int
    images_per_second: float


def measure(files: Mapping[str, pathlib.Path], validation: Split, reporter: Reporter) -> dict[str, Measurement]:
    """Run several files on all validation examples, and return what each achieves, by its name.

    They take turns, so that other load on the machine slows all of them. The first batch of each process is not timed.
    """
    correct: dict[str, int] = dict.fromkeys(files, 0)
    seconds: dict[str, list[float]] = {name: [] for name in files}
    show_progress = reporter.counter("scoring validation images")
    num_images = 0
    for images, labels in validation.batches(IMAGES_PER_PROCESS):
        for name, path in files.items():
            outputs = run_in_fresh_process(path, images)
            scores = next(outputs.arrays[key] for key in ("probabilities", "logits") if key in outputs.arrays)
            correct[name] += int(np.sum(scores.argmax(-1) == labels))
            seconds[name] += list(outputs.seconds[1:] if len(outputs.seconds) > 1 else outputs.seconds)
        num_images += len(images)
        show_progress(num_images, len(validation))
    batch_size = min(BATCH_SIZE, num_images)
    return {
        name: Measurement(
            top1=correct[name] / num_images,
            num_images=num_images,
            num_bytes=path.stat().st_size,
            images_per_second=batch_size / float(np.median(seconds[name])),
        )
        for name, path in files.items()
    }


def check_drop(before: Measurement, after: Measurement, max_drop: float) -> None:
    """Raise `UserError` if the top-1 accuracy falls by more than `max_drop`."""
    drop = before.top1 - after.top1
    if drop > max_drop:
        raise UserError(
            f"int8 would lower the top-1 on validation from {before.top1:.2%} to {after.top1:.2%}, which is more than "
            f"--max_drop={max_drop:g}. Nothing was written. Calibrate with more images (--calibrate), or "
            "accept the loss with a larger --max_drop."
        )
