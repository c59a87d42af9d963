"""Write a model in the format that a path asks for, and keep the file only if it is proven to be right."""

import contextlib
import dataclasses
import importlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from types import ModuleType

import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.export import int8
from resnet_jax.export.examples import Split
from resnet_jax.export.program import Program
from resnet_jax.export.proof import Proof, prove
from resnet_jax.terminal import Reporter

# ---- Formats ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of exported models.

    Attributes:
      module: the module of this package that writes it, with a function `write(program, path, batch_size)`.
      any_batch: whether files can take any batch size, in place of a fixed one.
    """

    module: str
    any_batch: bool

    def load(self) -> ModuleType:
        """Import the module; raises `UserError` if a package that it needs is not installed."""
        return importlib.import_module(f"resnet_jax.export.{self.module}")


DIRECTORY = "/"
FORMATS = {  # by the end of the path
    ".onnx": Format("onnx_format", any_batch=True),
    ".stablehlo": Format("stablehlo", any_batch=True),
    ".tflite": Format("tflite", any_batch=False),
    DIRECTORY: Format("saved_model", any_batch=False),
}
WEIGHTS = ".safetensors"  # weights without a program; see `weights.py`


# ---- Targets ---------------------------------------------------------------------------------------------------------


def suffix_of(to: str) -> str:
    """Return the end of a path that determines the format: a suffix, or "/" for a directory.

    Raises:
      UserError: if it stands for no format.

    Example:
      >>> suffix_of("model.onnx"), suffix_of("saved_model/")
      ('.onnx', '/')
    """
    suffix = DIRECTORY if to.endswith(DIRECTORY) else pathlib.Path(to).suffix
    if suffix not in (*FORMATS, WEIGHTS):
        raise UserError(
            f"the path {to} names no format. Give one that ends in {WEIGHTS}, {', '.join(FORMATS)}; the last is a "
            "directory, with a TensorFlow SavedModel."
        )
    return suffix


def check_target(to: str, overwrite: bool) -> pathlib.Path:
    """Check that a file or directory can be written, and return its path. Call this before long work, to fail early.

    Raises:
      UserError: if the path names no format, exists although it is not to be overwritten, or cannot be written; or if
        a package for its format is not installed.
    """
    suffix = suffix_of(to)
    if suffix in FORMATS:
        FORMATS[suffix].load()
    is_directory = suffix == DIRECTORY
    path = pathlib.Path(os.path.expanduser(to))
    if path.is_dir() and not is_directory:
        problem, remedy = "it is a directory", "Give the path of a file."
    elif path.is_file() and is_directory:
        problem, remedy = "it is a file", "Give the path of a directory."
    elif path.exists() and not overwrite:
        problem, remedy = "it exists", "Choose another path, or replace it with --overwrite."
    elif is_directory and path.exists() and any(path.iterdir()) and not (path / "saved_model.pb").exists():
        problem, remedy = "it is a directory, but no SavedModel", "Choose another path."
    elif not path.parent.is_dir():
        problem, remedy = "no such directory", f"Create the directory {path.parent} first."
    elif not os.access(path.parent, os.W_OK):
        problem, remedy = f"{path.parent} is not writable", "Choose another directory."
    else:
        return path
    raise UserError(f"cannot write the model to {to} ({problem}). {remedy}")


@contextlib.contextmanager
def unfinished(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Provide a path to write to, and move what lies there to `path` at the end, unless an exception was raised."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.unfinished-", dir=path.parent) as folder:
        temporary = pathlib.Path(folder) / path.name
        yield temporary
        if path.is_dir():  # A directory can only be moved to where nothing is.
            shutil.move(path, pathlib.Path(folder) / "replaced")
        os.replace(temporary, path)


# ---- Export ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How to turn an ONNX file into one that computes in int8.

    Attributes:
      calibration: the images that the ranges of activations come from, uint8 [n, height, width, channels].
      validation: the examples on which both files are scored.
      max_drop: how much top-1 accuracy may be lost, in [0, 1].
    """

    calibration: np.ndarray
    validation: Split
    max_drop: float


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      num_bytes: the size of the file or directory.
      proof: the comparison of the file, in float32, with the model.
      measured: for int8, what the files "float32" and "int8" achieve on the validation examples.
    """

    num_bytes: int
    proof: Proof
    measured: Mapping[str, int8.Measurement] | None


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
      UserError: as `check_target`, `prove` and `int8.check_drop` do. Nothing is written then.
    """
    target = check_target(to, overwrite)
    with unfinished(target) as path:
        FORMATS[suffix_of(to)].load().write(program, path, batch_size)
        proof = prove(program, path, images)
        measured = _quantize(path, quantization, reporter) if quantization else None
        num_bytes = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
    return Exported(num_bytes, proof, measured)


def _quantize(path: pathlib.Path, settings: Quantization, reporter: Reporter) -> dict[str, int8.Measurement]:
    """Replace an ONNX file by one that computes in int8, unless it loses too much accuracy."""
    from resnet_jax.export import onnx_format

    quantized = path.with_name(f"int8-{path.name}")
    onnx_format.quantize(path, quantized, settings.calibration)
    measured = int8.measure({"float32": path, "int8": quantized}, settings.validation, reporter)
    int8.check_drop(measured["float32"], measured["int8"], settings.max_drop)
    os.replace(quantized, path)
    return measured
