"""Ctrl-C, and SIGTERM from a machine that is taken away, without loss: the loop is asked to save and stop."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from resnet_jax.errors import Preempted

EXCEPTIONS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Preempted}


@contextlib.contextmanager
def preemption() -> Iterator[None]:
    """Within this context SIGTERM raises `Preempted` at once, as Ctrl-C raises KeyboardInterrupt anywhere."""

    def handle(signum, frame):
        raise Preempted

    with _handling({signal.SIGTERM: handle}):
        yield


@contextlib.contextmanager
def interruption() -> Iterator[Callable[[], signal.Signals | None]]:
    """Within this context, gives a function to the signal that has asked to stop: SIGINT, SIGTERM or None.

    An exception amid a step would lose the state, whose buffers are donated: hence a flag. A second Ctrl-C raises
    KeyboardInterrupt at once. It is always None outside the main thread, where Python delivers no signals.
    """
    received: list[signal.Signals] = []

    def handle(signum, frame):
        if signum == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(signal.Signals(signum))

    with _handling(dict.fromkeys(EXCEPTIONS, handle)):
        yield lambda: received[0] if received else None


@contextlib.contextmanager
def _handling(handlers: dict[signal.Signals, Callable]) -> Iterator[None]:
    """Other handlers of signals, for a while, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
