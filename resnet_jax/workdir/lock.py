"""Exclusive use of a run directory: by one run at a time, and shared by all processes of that run."""

import contextlib
import errno
import os
import pathlib
import secrets
import socket
import time
from collections.abc import Iterator

import filelock
import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.workdir.workdir import WorkDir

LOCK_FILE = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of file systems that have no locks
TOKEN_FILE = ".shared"
VISIBILITY_SECONDS = 20  # how long a network file system may take to show a new file to all machines


@contextlib.contextmanager
def locked(directory: epath.Path) -> Iterator[None]:
    """Hold the lock of a run directory, so that no other run uses it, on this machine or on one that shares its files.

    Only the main process of a run takes the lock. The kernel releases it when the process ends, however it ends.
    Directories in buckets (gs://) or on file systems without locks are not locked.

    Raises:
      UserError: if another process holds the lock.
    """
    if "://" in str(directory) or not parallel.is_main_process():
        yield
        return
    path = pathlib.Path(directory) / LOCK_FILE
    # Without flock, filelock would fall back to a lock that outlives its process.
    lock = filelock.FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{directory} is in use by {_holder(path)}. Wait until it ends, stop it, or choose another --workdir."
        ) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    with contextlib.suppress(OSError):  # On a full disk, the lock is held without the name of its holder.
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    try:
        yield
    finally:
        lock.release()


def _holder(path: pathlib.Path) -> str:
    """Return the name that the holder of the lock has written to the lock file."""
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:  # Windows does not let others read a locked file.
        return "another process"


def check_shared(directory: WorkDir) -> None:
    """Check that every process of the run sees the same run directory, because all read what the first process saves.

    Does nothing in a run of a single process.

    Raises:
      UserError: if a process does not see what the first process writes.
    """
    if jax.process_count() == 1:
        return
    directory.make()
    token = str(multihost_utils.broadcast_one_to_all(np.int32(secrets.randbelow(2**31))))
    directory.write(TOKEN_FILE, token)
    without_access = parallel.sum_over_processes(not _sees(directory, token))
    directory.remove(TOKEN_FILE)
    if without_access:
        raise UserError(
            f"{without_access} of {jax.process_count()} processes cannot see the workdir {directory.path} of the first "
            "process. Choose one that all machines share, on a network file system or in a bucket (gs://...)."
        )


def _sees(directory: WorkDir, token: str) -> bool:
    """Return True if this process can read the token, after waiting for it if necessary."""
    deadline = time.monotonic() + VISIBILITY_SECONDS
    path = directory.path / TOKEN_FILE
    while not path.exists() or path.read_text(encoding="utf-8") != token:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
