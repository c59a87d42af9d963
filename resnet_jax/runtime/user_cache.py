"""The user's cache directory, which makes the next start faster.

It is `$XDG_CACHE_HOME/resnet_jax` or, if that variable is unset, `~/.cache/resnet_jax`. It may be deleted at any time.
If it is not writable, the program works without it.
"""

import contextlib
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import BinaryIO


def directory(name: str) -> pathlib.Path | None:
    """Return a directory in the cache, and create it if necessary; None if it is not writable."""
    try:
        root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        path = pathlib.Path(root) / "resnet_jax" / name
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home directory.
        return None
    return path if os.access(path, os.W_OK) else None


def write(path: pathlib.Path, write_content: Callable[[BinaryIO], None], max_bytes: int) -> None:
    """Write a file of the cache atomically. Other processes may write the same file at the same time.

    If the file cannot be written, for example because the disk is full, nothing is written and no error is raised.

    Args:
      path: the path of the file, in a directory that holds only files written by this function.
      write_content: writes the content to an open file.
      max_bytes: the maximum size of the directory. To make room, the files with the oldest modification times are
        deleted, so a reader of a file should update its modification time.
    """
    with contextlib.suppress(OSError):
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with open(descriptor, "wb") as file:
                write_content(file)
            os.replace(unfinished, path)
        finally:
            pathlib.Path(unfinished).unlink(missing_ok=True)
        _make_room(path.parent, max_bytes)


def _make_room(directory: pathlib.Path, max_bytes: int) -> None:
    """Delete the least recently used files until the others take at most `max_bytes`."""
    newest_first = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    total_sizes = itertools.accumulate(path.stat().st_size for path in newest_first)
    for path, total_size in zip(newest_first, total_sizes, strict=True):
        if total_size > max_bytes:
            path.unlink(missing_ok=True)
