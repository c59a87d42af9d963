"""Write a model in the format that a path asks for, and keep the file only if it is proven to be right."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from resnet_jax.export import int8
from resnet_jax.export.examples import RunExamples
from resnet_jax.export.program import Program
from resnet_jax.export.proof import Proof, prove
from resnet_jax.export.targets import FORMATS, check_target, suffix_of, unfinished
from resnet_jax.terminal import Reporter


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How to turn an ONNX file into one that computes in int8.

    Attributes:
      calibration: the images that the ranges of activations come from, uint8 [n, height, width, channels].
      scored: the examples on which the files in float32 and in int8 are scored.
      scores: the output whose largest value is that of the predicted class, "probabilities" or "logits".
      max_drop: how much top-1 accuracy may be lost, in [0, 1].
    """

    calibration: np.ndarray
    scored: RunExamples
    scores: str
    max_drop: float


@dataclasses.dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
      num_bytes: the size of the file or directory.
      proof: the comparison of the file with the model; for int8, that of the file in float32 that it was made from.
      measured: for int8, what the files "float32" and "int8" achieve on `measured_on`; otherwise None.
      measured_on: what they were scored on: "validation images" or, if there are none, "training images".
    """

    num_bytes: int
    proof: Proof
    measured: Mapping[str, int8.Measurement] | None = None
    measured_on: str = ""


def export_model(
    program: Program,
    to: str,
    images: np.ndarray,
    reporter: Reporter,
    batch_size: int | None = None,
    quantization: Quantization | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a program as a file or directory, and prove that it computes the same.

    Args:
      program: the program.
      to: the path; its end determines the format.
      images: the images on which both are compared, uint8 [n, height, width, channels].
      reporter: shows the progress.
      batch_size: the only batch size that the file will take; None: it takes any or, if the format needs a fixed size,
        one image at a time.
      quantization: for an ONNX file, how to make it compute in int8; None: it computes in float32.
      overwrite: whether to replace what is there.

    Raises:
      UserError: as `check_target`, `prove`, `int8.measure` and `int8.check_drop` do. Nothing is written then.
    """
    target = check_target(to, overwrite)
    with unfinished(target) as path:
        suffix = suffix_of(to)
        FORMATS[suffix].load().write(program, path, batch_size)
        proof = prove(program, path, suffix, images)
        if quantization:
            measured = _quantize(path, quantization, reporter)
        num_bytes = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
    if quantization:
        return Exported(num_bytes, proof, measured, quantization.scored.name)
    return Exported(num_bytes, proof)


def _quantize(path: pathlib.Path, settings: Quantization, reporter: Reporter) -> dict[str, int8.Measurement]:
    """Replace an ONNX file with one that computes in int8, unless it loses too much accuracy."""
    from resnet_jax.export import onnx_format

    quantized = path.with_name(f"int8-{path.name}")
    onnx_format.quantize(path, quantized, settings.calibration)
    measured = int8.measure({"float32": path, "int8": quantized}, settings.scores, settings.scored, reporter)
    int8.check_drop(measured, settings.scored.name, settings.max_drop)
    os.replace(quantized, path)
    return measured
