"""One process at a time works in a run directory."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from etils import epath

from resnet_jax import parallel
from resnet_jax.errors import UserError

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
