"""Write a program as a TensorFlow SavedModel.

Its batch size is fixed: TensorFlow 2.21 does not read a program of JAX 0.12 whose batch size is free.
"""

import pathlib

import jax

from resnet_jax.errors import needs_extra
from resnet_jax.export import stablehlo
from resnet_jax.export.program import Program

with needs_extra("this format", "tensorflow", "tensorflow"):
    import tensorflow as tf
    from jax.experimental import jax2tf

METADATA_FOLDER = "assets.extra"  # for additional files, which TensorFlow Serving ignores


def write(program: Program, directory: pathlib.Path, batch_size: int | None) -> None:
    """Write a SavedModel, with its metadata in `assets.extra`, into a directory that does not exist yet.

    Its signature "serving_default" takes the tensor "images" and returns the outputs by name.

    Args:
      program: the program.
      directory: the directory.
      batch_size: the only batch size that the model will take; None: 1.
    """
    save(program, directory, batch_size, stablehlo.PLATFORMS)
    folder = directory / METADATA_FOLDER
    folder.mkdir()
    (folder / stablehlo.METADATA_FILE).write_text(program.metadata_json(), encoding="utf-8")


def save(program: Program, directory: pathlib.Path, batch_size: int | None, platforms: tuple[str, ...]) -> None:
    """Write a SavedModel without metadata that runs on these platforms; see `write`."""
    images = tf.TensorSpec((batch_size or 1, *program.image_shape), tf.uint8, name="images")
    converted = jax2tf.convert(jax.jit(program.function), with_gradient=False, native_serialization_platforms=platforms)
    module = tf.Module()
    module.function = tf.function(converted, input_signature=[images], autograph=False)
    with stablehlo.without_source_paths():
        tf.saved_model.save(module, str(directory), {"serving_default": module.function.get_concrete_function()})
