"""One process at a time works in a run directory."""

import contextlib
import errno
import os
import secrets
import socket
import time
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.workdir.workdir import WorkDir

try:
    import fcntl
except ImportError:  # On Windows.
    fcntl = None

HELD = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def locked(directory: epath.Path) -> Iterator[None]:
    """Within this context no other run can lock the directory, on this machine or on one that shares its files.

    The main process of a run locks it. The lock is the kernel's: it ends with the process, however that ends. Buckets
    (gs://), file systems without locks and Windows have none.

    Raises:
      UserError: if another process holds it.
    """
    if fcntl is None or "://" in str(directory) or not parallel.is_main_process():
        yield
        return
    with open(directory / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        except OSError as error:
            if error.errno in HELD:
                file.seek(0)
                raise UserError(
                    f"{directory} is in use by {file.read() or 'another process'}: "
                    "wait for its end or stop it, or choose another --workdir"
                ) from None
        yield


# --- A run directory of several processes: all of them must see the same one.


TOKEN = ".shared"
PATIENCE = 20  # seconds in which a file must have come through a network file system


def check_shared(directory: WorkDir) -> None:
    """Raises `UserError` unless every process sees what the first writes; alone it does nothing.

    Checkpoints are written by the first process, and read by all.
    """
    if jax.process_count() == 1:
        return
    directory.make()
    token = str(multihost_utils.broadcast_one_to_all(np.int32(secrets.randbelow(2**31))))
    directory.write(TOKEN, token)
    unseeing = parallel.total(not _sees(directory, token))
    directory.remove(TOKEN)
    if unseeing:
        raise UserError(
            f"{unseeing} of {jax.process_count()} processes do not see the workdir {directory.path} of the first: "
            "choose one that all machines share, on a network file system or in a bucket (gs://...)"
        )


def _sees(directory: WorkDir, token: str) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not (directory.path / TOKEN).exists() or (directory.path / TOKEN).read_text() != token:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
