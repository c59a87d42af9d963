"""The processes of a run on several machines: how they find one another, agree, and end."""

import collections
import os
import socket
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel

PATIENCE = 300  # seconds that processes wait for one another at the start
SILENCE = 60  # seconds after which a process that is not heard from counts as dead, also at the end
# What an error says when a process at the other end is gone: of CPUs, of GPUs (not tried), of JAX's own service.
SIGNS_OF_LOSS = ("Gloo", "remote process exited", "CoordinationService")


def start(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the processes of a run; alone on one machine it does nothing.

    TPU pods and Slurm jobs are detected by JAX. Other machines have to be told. Must come before anything that touches
    a device.

    Args:
      coordinator: HOST:PORT of process 0, a port that is free there; unset: what JAX detects.
      num_processes: how many processes there are.
      process_id: which of them this is, from 0.

    If not all processes come within `PATIENCE` seconds, it says so and ends this one, with exit code 2.

    Raises:
      UserError: if process 0 cannot listen there, or cannot be reached in that time.
    """
    # JAX's own watch for preemption would keep SIGTERM from Python, and hears neither Ctrl-C nor the clock.
    jax.config.update("jax_enable_preemption_service", False)
    if coordinator is not None:
        _check_coordinator(coordinator, process_id)
    come = _end_unless_all_come(num_processes)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            cluster_detection_method=None if coordinator is None else "deactivate",
            initialization_timeout=2 * PATIENCE,  # At its end JAX would abort with a stack trace.
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=SILENCE,
        )
    except ValueError as error:
        if "coordinator_address" not in str(error):  # JAX's way to say that it found no cluster.
            raise
    finally:
        come.cancel()


def lost_another(error: BaseException | None) -> bool:
    """True if `error`, or what caused it, is that another process of the run has ended."""
    if error is None or not jax.distributed.is_initialized():
        return False
    return any(sign in str(error) for sign in SIGNS_OF_LOSS) or lost_another(error.__cause__ or error.__context__)


def leave(exit_code: int) -> int:
    """Returns the exit code for a run that failed; of several processes, this one ends at once.

    At a regular end it would wait minutes for the others, who wait for it.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    return exit_code


class Agreement:
    """What one process wishes, such as to stop or to save, all of them learn at the same call.

    A wish is a number, the more urgent the larger, 0 for none. All processes must ask equally often, and repeat a wish
    until it is granted. Nobody waits: the answer is about the wishes of `CALLS_AHEAD` calls before, which came while
    the devices were at work since. Alone, a process is granted its wish at once.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._most_urgent = parallel.jit(jnp.max, mesh)
        self._unread: collections.deque[jax.Array] = collections.deque()

    def __call__(self, wish: int) -> int:
        """Takes the wish of this process, gives the most urgent one of all."""
        if jax.process_count() == 1:
            return wish
        wishes = np.full(len(self._mesh.local_devices), wish, np.int32)
        self._unread.append(self._most_urgent(parallel.place_rows(wishes, self._mesh, self._mesh.size)))
        if len(self._unread) <= parallel.CALLS_AHEAD:
            return 0
        granted = int(parallel.fetch(self._unread.popleft()))
        if granted:
            self._unread.clear()  # They hold the same wish once more.
        return granted


def _end_unless_all_come(num_processes: int | None) -> threading.Timer:
    """Ends this process after `PATIENCE` seconds, unless it is cancelled."""

    def end() -> None:
        all_of_them = "all processes" if num_processes is None else f"all of the {num_processes} processes"
        print(
            f"error: not {all_of_them} have come within {PATIENCE // 60} minutes: start the same command for each, "
            "with a --process_id of its own where JAX does not detect them",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)  # The user must change something. From this thread nothing else ends the process.

    timer = threading.Timer(PATIENCE, end)
    timer.daemon = True
    timer.start()
    return timer


def _check_coordinator(coordinator: str, process_id: int | None) -> None:
    """Finds out what JAX would end the process for, without a word that helps."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator={coordinator} is not of the form HOST:PORT, such as 10.0.0.1:8476")
    if process_id == 0:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except (OSError, OverflowError) as error:
                raise UserError(f"cannot listen at port {port} ({error}): choose another for --coordinator") from error
        return
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"nobody answers at {coordinator} ({error}): start the process with --process_id=0 there, and "
                    "check --coordinator and firewalls"
                ) from error
            time.sleep(1)
