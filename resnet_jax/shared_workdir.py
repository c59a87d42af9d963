"""A run directory of several processes: all of them must see the same one."""

import secrets
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from resnet_jax import parallel
from resnet_jax.errors import UserError
from resnet_jax.workdir import WorkDir

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
