"""The formats of exported models, and the paths to which they are written."""

import contextlib
import dataclasses
import errno
import importlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from types import ModuleType

from resnet_jax import files
from resnet_jax.errors import UserError

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


# ---- Paths -----------------------------------------------------------------------------------------------------------


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
            f"the path names no format ({to}). Give one that ends in {WEIGHTS}, .onnx, .stablehlo or .tflite or, for a "
            "TensorFlow SavedModel, in a slash."
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
    if suffix == DIRECTORY:
        path = pathlib.Path(os.path.abspath(os.path.expanduser(to)))
        files.check_parent(path, "the model")
        if path.is_file():
            raise UserError(f"cannot write the model to {to} (it is a file). Give the path of a directory.")
        if path.exists() and any(path.iterdir()) and not (path / "saved_model.pb").exists():
            raise UserError(f"cannot write the model to {to} (it holds other files). Give the path of a new directory.")
    else:
        path = files.check_target(to, "the model", suffix)
    if path.exists() and not overwrite:
        raise UserError(
            f"cannot write the model to {to} (it exists). Choose another path, or replace it with --overwrite."
        )
    return path


@contextlib.contextmanager
def unfinished(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Provide a path to write to, and move what lies there to `path` at the end, unless an exception was raised.

    Raises:
      UserError: if the disk is full. Use no other disk within the context.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
            temporary = pathlib.Path(folder) / path.name
            yield temporary
            _replace(path, temporary, pathlib.Path(folder) / "replaced")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"cannot write the model to {path} ({error.strerror}). Free some space there, or choose another path."
        ) from error


def _replace(path: pathlib.Path, new: pathlib.Path, backup: pathlib.Path) -> None:
    """Move a new file or directory to a path. If that fails, what was there stays there."""
    if new.is_file():
        with new.open("rb") as file:
            files.sync_to_disk(file)
    if not path.is_dir():
        os.replace(new, path)
        return
    os.replace(path, backup)  # A directory can only be moved to where nothing is.
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(backup, path)
        raise
