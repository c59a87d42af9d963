"""Checks of paths that the user gave, and atomic writes of small files."""

import contextlib
import io
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from etils import epath

from resnet_jax.errors import UserError

MAX_NAME = 255  # bytes of the name of a file, on all common file systems


def check_characters(path: str, what: str, misread: str) -> None:
    """Check that every library takes a path literally.

    Args:
      path: the path that the user gave, or the absolute path.
      what: what it is the path of, such as "workdir".
      misread: the characters that one of the libraries does not take literally.

    Raises:
      UserError: if the path is not UTF-8 or contains one of these characters.

    Example:
      >>> check_characters("/tmp/run?", "workdir", misread="*?[")
      Traceback (most recent call last):
      resnet_jax.errors.UserError: the path of the workdir ('/tmp/run?') contains '?'. Choose another path.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"the path of the {what} ({path!r}) is not UTF-8. Choose another path.") from None
    for character in misread:
        if character in path:
            raise UserError(f"the path of the {what} ({path!r}) contains {character!r}. Choose another path.")


def check_target(path: str, what: str, suffix: str) -> pathlib.Path:
    """Check that `write_target` can write to a path, and return it. Call this before long work, to fail early.

    Args:
      path: the path that the user gave.
      what: what is to be written, such as "weights".
      suffix: the suffix that the path must have, such as ".png".

    Raises:
      UserError: if the path has another suffix, is a directory, or is not in a writable directory.
    """
    file = pathlib.Path(os.path.expanduser(path))
    if file.suffix != suffix:
        raise UserError(f"cannot write {what} to {path} (wrong suffix). Give a path that ends in {suffix}.")
    if file.is_dir():
        raise UserError(f"cannot write {what} to {path} (it is a directory). Give the path of a file.")
    check_parent(file, what)
    return file


def check_parent(path: pathlib.Path, what: str) -> None:
    """Raise `UserError` unless `what`, such as "weights", can be created in the directory that holds `path`."""
    directory = path.parent
    if not directory.is_dir():
        problem, remedy = "no such directory", f"Create the directory {directory} first."
    elif not os.access(directory, os.W_OK):
        problem, remedy = f"{directory} is not writable", "Choose another directory."
    elif len(os.fsencode(unfinished_name(path.name))) > MAX_NAME:
        problem, remedy = "its name is too long", "Choose a shorter one."
    else:
        return
    raise UserError(f"cannot write {what} to {path} ({problem}). {remedy}")


def write_target(path: str, what: str, suffix: str, content: bytes) -> None:
    """Write a file to a path that the user gave, atomically.

    Args:
      path, what, suffix: see `check_target`.
      content: the whole content of the file.

    Raises:
      UserError: if `check_target` refuses the path, or if the file cannot be written.
    """
    try:
        write(epath.Path(check_target(path, what, suffix)), content)
    except OSError as error:
        raise UserError(
            f"cannot write {what} to {path} ({error.strerror}). Free some space there, or choose another path."
        ) from error


def write(path: epath.Path, content: str | bytes) -> None:
    """Write a file atomically, even if the power fails, and create its directory if necessary.

    Raises:
      OSError: if the file cannot be written. A previous version of the file is then left intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / unfinished_name(path.name)
    try:
        with unfinished.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            sync_to_disk(file)
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def unfinished_name(name: str) -> str:
    """Return the name of a file while it is being written, given its final name."""
    return f".{name}.unfinished"


def as_npz(arrays: Mapping[str, np.ndarray], compress: bool = False) -> bytes:
    """Return the content of an .npz file with these arrays."""
    content = io.BytesIO()
    if compress:
        np.savez_compressed(content, allow_pickle=False, **arrays)
    else:
        np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def sync_to_disk(file) -> None:
    """Flush an open file to the disk. Do nothing more for a file in a bucket, which is written when it is closed."""
    file.flush()
    with contextlib.suppress(AttributeError, OSError):
        os.fsync(file.fileno())
