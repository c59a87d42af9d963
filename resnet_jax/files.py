"""Small files, written wholly or not at all."""

import contextlib
import os

from etils import epath


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
