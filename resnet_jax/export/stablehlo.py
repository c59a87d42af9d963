"""Write a program as StableHLO, which JAX runs without this project."""

import contextlib
import io
import pathlib
import zipfile
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from resnet_jax.export.program import Program

PLATFORMS = ("cpu", "cuda", "tpu")
METADATA_FILE = "metadata.json"


def write(program: Program, path: pathlib.Path, batch_size: int | None) -> None:
    """Write a .stablehlo file, which `jax.export.deserialize` reads.

    One file serves all of `PLATFORMS`. Its metadata is in a zip archive at the end, as in a .tflite file. Any program
    for zip archives finds it there, and `deserialize` ignores it.

    Args:
      program: the program.
      path: the file.
      batch_size: the only batch size that the file will take; None: it takes any.
    """
    batch = jax.export.symbolic_shape("batch")[0] if batch_size is None else batch_size
    images = jax.ShapeDtypeStruct((batch, *program.image_shape), jnp.uint8)
    with without_source_paths():
        exported = jax.export.export(jax.jit(program.function), platforms=PLATFORMS)(images)
        content = bytes(exported.serialize())
    path.write_bytes(with_metadata(content, program))


@contextlib.contextmanager
def without_source_paths() -> Iterator[None]:
    """Keep the paths of Python files on this machine out of the programs that are lowered within the context."""
    limit = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]  # set at run time
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def with_metadata(content: bytes, program: Program) -> bytes:
    """Return the content of a FlatBuffers file with a zip archive at its end, which holds the metadata."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(METADATA_FILE), program.metadata_json())
    return file.getvalue()
