"""Small files, written wholly or not at all."""

import contextlib
import os
import pathlib

from etils import epath

from resnet_jax.errors import UserError


def check_target(path: str, what: str, suffix: str) -> pathlib.Path:
    """Where `write_target` would write; better known before all the work than after.

    Args:
      path: that the user has named.
      what: is to be written there, such as "weights".
      suffix: that the path must have, such as ".png".

    Raises:
      UserError: if it ends otherwise, is a directory, or is in none that can be written to.
    """
    file = pathlib.Path(path).expanduser()
    if file.suffix != suffix:
        remedy = f"give a path that ends in {suffix}"
    elif file.is_dir():
        remedy = "it is a directory, so give another path"
    elif not file.parent.is_dir():
        remedy = f"make the directory {file.parent} first"
    elif not os.access(file.parent, os.W_OK):
        remedy = f"name a file in another directory, since nothing can be written to {file.parent}"
    else:
        return file
    raise UserError(f"cannot write {what} to {path}: {remedy}")


def write_target(path: str, what: str, suffix: str, content: bytes) -> None:
    """Writes a file that the user has named, wholly or not at all.

    Raises:
      UserError: as `check_target`, or if it cannot be written.
    """
    try:
        write(epath.Path(check_target(path, what, suffix)), content)
    except OSError as error:
        raise UserError(
            f"cannot write {what} to {path} ({error.strerror}): make room there, or choose another path"
        ) from error


def write(path: epath.Path, content: str | bytes) -> None:
    """Writes a file in place of the old one, in a directory that is made if need be; not even a power cut halves it.

    Raises:
      OSError: if it cannot be written; the old file, if there was one, is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.unfinished"
    try:
        with unfinished.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            put_on_disk(file)
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def put_on_disk(file) -> None:
    """Has the system write what it still keeps of an open file; a bucket does so when it is closed."""
    file.flush()
    with contextlib.suppress(AttributeError, OSError):
        os.fsync(file.fileno())
