"""Write a program as a TFLite file, by way of a SavedModel.

Its batch size is fixed: the converter fails on the strided slices of some models if the batch size is free.
"""

import pathlib
import tempfile

from resnet_jax.export import saved_model, stablehlo
from resnet_jax.export.program import Program
from resnet_jax.export.saved_model import tf


def write(program: Program, path: pathlib.Path, batch_size: int | None) -> None:
    """Write a .tflite file with the signature of the SavedModel, and with its metadata in a zip archive at the end.

    Args:
      program: the program.
      path: the file.
      batch_size: the only batch size that the file will take; None: 1.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        saved_model.save(program, pathlib.Path(directory), batch_size, platforms=("cpu",))
        content = tf.lite.TFLiteConverter.from_saved_model(directory).convert()
    path.write_bytes(stablehlo.with_metadata(content, program))
