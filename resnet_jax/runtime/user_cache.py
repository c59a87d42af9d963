"""The user's cache directory: what can be made again, kept so that the next start is quicker.

It is `$XDG_CACHE_HOME/resnet_jax`, where that is unset `~/.cache/resnet_jax`, and may be removed at any time. Nothing
in it is needed: where it cannot be written to, all goes on without.
"""

import contextlib
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import BinaryIO


def directory(name: str) -> pathlib.Path | None:
    """A directory in the cache, made if need be; None where that cannot be."""
    try:
        root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        place = pathlib.Path(root) / "resnet_jax" / name
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # The latter where there is no home.
        return None
    return place if os.access(place, os.W_OK) else None


def keep(path: pathlib.Path, write: Callable[[BinaryIO], None], limit: int) -> None:
    """Writes a file of the cache, wholly or not at all, also where other processes write it at the same time.

    Args:
      path: in a directory of this cache that has only such files.
      write: writes the content to an open file.
      limit: bytes that the directory may take; what has been unused longest makes room.
    """
    with contextlib.suppress(OSError):  # No room, say: then it is not kept.
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with open(descriptor, "wb") as file:
                write(file)
            os.replace(unfinished, path)
        finally:
            pathlib.Path(unfinished).unlink(missing_ok=True)
        _make_room(path.parent, limit)


def _make_room(place: pathlib.Path, limit: int) -> None:
    """Removes what has been unused longest, until the rest takes no more than `limit` bytes."""
    newest_first = sorted(place.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    sizes = itertools.accumulate(path.stat().st_size for path in newest_first)
    for path, together in zip(newest_first, sizes, strict=True):
        if together > limit:
            path.unlink(missing_ok=True)
