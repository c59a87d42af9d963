"""Write a program as an ONNX file, with weights and activations in float32 or in int8."""

import json
import pathlib
from collections.abc import Iterator

import numpy as np

from resnet_jax.errors import UserError, needs_extra
from resnet_jax.export.program import Program

with needs_extra("the ONNX format", "onnx", "onnx"):
    from resnet_jax.export import onnx_from_jaxpr
with needs_extra("the ONNX format", "onnxruntime", "onnx"):
    from onnxruntime import quantization

CALIBRATION_BATCH = 32


def write(program: Program, path: pathlib.Path, batch_size: int | None) -> None:
    """Write an .onnx file. The metadata are properties of the model, each with a JSON value.

    Args:
      program: the program.
      path: the file.
      batch_size: the only batch size that the file will take; None: it takes any.

    Raises:
      UserError: if the model has an operation that our converter does not know.
    """
    metadata = {key: json.dumps(value) for key, value in program.metadata.items()}
    try:
        model = onnx_from_jaxpr.convert(
            lambda images: list(program.function(images).values()),
            program.image_shape,
            program.outputs,
            metadata=metadata,
        )
    except NotImplementedError as error:
        raise UserError(f"{error}. Choose another format, and please report this.") from error
    if batch_size is not None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch_size
    path.write_bytes(model.SerializeToString())


def quantize(source: pathlib.Path, target: pathlib.Path, images: np.ndarray) -> None:
    """Write a copy of an ONNX file that computes in int8 what ONNX Runtime can, the convolutions above all.

    Each channel of a kernel has a scale of its own. The scale of an activation covers the range that it has on the
    calibration images.

    Args:
      source: the file in float32, which takes any batch size.
      target: the file to write.
      images: the calibration images, uint8 [n, height, width, channels].
    """
    quantization.quantize_static(
        source,
        target,
        _Calibration(images),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        # With unsigned activations, the logits of a ResNet-20 differed from those in float32 by four times as much: by
        # 0.146 of their std in place of 0.036 (root mean square, 5,000 images, an AMD EPYC without VNNI).
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
    )


class _Calibration(quantization.CalibrationDataReader):
    """Batches of calibration images, as ONNX Runtime asks for them."""

    def __init__(self, images: np.ndarray):
        starts = range(0, len(images), CALIBRATION_BATCH)
        self._batches: Iterator[np.ndarray] = (images[start : start + CALIBRATION_BATCH] for start in starts)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {onnx_from_jaxpr.INPUT: batch}
