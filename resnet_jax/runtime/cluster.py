"""Runs of several processes: start, agreement on decisions, and exit."""

import collections
import contextlib
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
from resnet_jax.terminal import print_if_possible

START_TIMEOUT = 300  # seconds that processes wait for each other at the start
HEARTBEAT_TIMEOUT = 60  # seconds without a heartbeat after which a process counts as dead; also used for the shutdown
# Texts in the errors that follow the loss of another process: on CPUs, on GPUs (not tried), from JAX's own service.
PROCESS_LOSS_TEXTS = ("Gloo", "remote process exited", "CoordinationService")


def start(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Connect the processes of a run. For a single process, do nothing.

    JAX detects TPU pods and Slurm jobs by itself; elsewhere the arguments are needed. Call this before anything that
    uses a device. If not all processes have started within `START_TIMEOUT` seconds, print an error and end this process
    with exit code 2.

    Args:
      coordinator: HOST:PORT of process 0, with a port that is free on its machine; None: what JAX detects.
      num_processes: the number of processes.
      process_id: the index of this process, from 0.

    Raises:
      UserError: if process 0 cannot listen at the port, or cannot be reached within `START_TIMEOUT` seconds; or as
        `parallel.all_devices` does.
    """
    # JAX's own preemption service would hide SIGTERM from Python, and handles neither Ctrl-C nor time limits.
    jax.config.update("jax_enable_preemption_service", False)
    if coordinator is not None:
        _check_coordinator(coordinator, process_id)
    watchdog = _end_unless_all_start(num_processes)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            cluster_detection_method=None if coordinator is None else "deactivate",
            initialization_timeout=2 * START_TIMEOUT,  # Longer than ours, because JAX aborts with a stack trace.
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=HEARTBEAT_TIMEOUT,
        )
    except ValueError as error:
        if "coordinator_address" not in str(error):  # This is how JAX reports that it detected no cluster.
            raise
    finally:
        watchdog.cancel()
    parallel.all_devices()


def is_process_loss(error: BaseException | None) -> bool:
    """Return whether `error` or one of its causes means that another process of the run has ended."""
    if error is None or not jax.distributed.is_initialized():
        return False
    return any(text in str(error) for text in PROCESS_LOSS_TEXTS) or is_process_loss(
        error.__cause__ or error.__context__
    )


def leave(exit_code: int) -> int:
    """Return the exit code of a failed run or, if the run has several processes, end this process with it immediately.

    A regular exit would wait up to `HEARTBEAT_TIMEOUT` seconds for the other processes, which wait for this process.
    """
    if jax.distributed.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(exit_code)
    return exit_code


class Agreement:
    """Lets all processes learn at the same call that one of them requests something, such as to stop or to save.

    A request is a number: 0 for none, and larger numbers for more urgent requests. All processes must call the object
    equally often, and repeat a request until it is granted, which means that a call returns it. Calls do not wait: they
    return the most urgent of the requests made `parallel.CALLS_AHEAD` calls earlier, which were exchanged while the
    devices were computing. With a single process, each call returns its own request at once.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._most_urgent = parallel.jit(jnp.max, mesh)
        self._unread: collections.deque[jax.Array] = collections.deque()

    def __call__(self, request: int) -> int:
        """Submit this process's request and return the most urgent one of all processes."""
        if jax.process_count() == 1:
            return request
        requests = np.full(len(self._mesh.local_devices), request, np.int32)
        self._unread.append(self._most_urgent(parallel.place_rows(requests, self._mesh, self._mesh.size)))
        if len(self._unread) <= parallel.CALLS_AHEAD:
            return 0
        granted = int(parallel.fetch(self._unread.popleft()))
        if granted:
            self._unread.clear()  # These are for repetitions of the granted request.
        return granted


def _end_unless_all_start(num_processes: int | None) -> threading.Timer:
    """Return a running timer that ends this process after `START_TIMEOUT` seconds, unless it is canceled."""

    def end() -> None:
        processes = "all processes" if num_processes is None else f"all of the {num_processes} processes"
        print_if_possible(
            f"error: not {processes} have started within {START_TIMEOUT // 60} minutes. Start the same command for "
            "each, with its own --process_id where JAX does not detect them.",
            sys.stderr,
        )
        os._exit(2)  # User error. Nothing else ends the process from this thread.

    timer = threading.Timer(START_TIMEOUT, end)
    timer.daemon = True
    timer.start()
    return timer


def _check_coordinator(coordinator: str, process_id: int | None) -> None:
    """Detect the errors for which JAX would end the process without a helpful message.

    Raises:
      UserError: if the address is malformed, and as in `start`.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator={coordinator} is not of the form HOST:PORT. Write for example 10.0.0.1:8476.")
    if process_id == 0:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except (OSError, OverflowError) as error:
                raise UserError(
                    f"cannot listen at port {port} ({error}). Choose another port for --coordinator."
                ) from error
        return
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"no process answers at {coordinator} ({error}). Start the process with --process_id=0 there, and "
                    "check --coordinator and firewalls."
                ) from error
            time.sleep(1)
