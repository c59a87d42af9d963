"""Handling of Ctrl-C, SIGTERM (preemption) and SIGHUP (closed terminal), so that the loop saves before it stops."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping

from resnet_jax.errors import Preempted

EXCEPTION_BY_SIGNAL: dict[int, type[BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Preempted,
    signal.SIGHUP: Preempted,
}


@contextlib.contextmanager
def raise_preempted_on_signal() -> Iterator[None]:
    """Within this context, raise `Preempted` at once on SIGTERM and SIGHUP, as Python does `KeyboardInterrupt`."""

    def handle(signum, frame):
        raise Preempted

    with _signal_handlers(dict.fromkeys((signal.SIGTERM, signal.SIGHUP), handle)):
        yield


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], signal.Signals | None]]:
    """Within this context, record SIGINT, SIGTERM and SIGHUP instead of raising an exception.

    An exception in the middle of a step would lose the state, because its buffers are donated to the step. Ctrl-C after
    an earlier signal raises `KeyboardInterrupt` at once.

    Yields:
      A function that returns the first signal received, or None. Outside the main thread it always returns None,
      because Python delivers no signals there.

    Example:
      >>> with deferred_signals() as received_signal:
      ...     signal.raise_signal(signal.SIGTERM)
      ...     received_signal() == signal.SIGTERM
      True
    """
    received: list[signal.Signals] = []

    def handle(signum, frame):
        if signum == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(signal.Signals(signum))

    with _signal_handlers(dict.fromkeys(EXCEPTION_BY_SIGNAL, handle)):
        yield lambda: received[0] if received else None


@contextlib.contextmanager
def _signal_handlers(handlers: Mapping[int, Callable]) -> Iterator[None]:
    """Replace signal handlers within this context, if this is the main thread.

    A process that ignores SIGHUP, because it was started with `nohup`, keeps ignoring it.
    """
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        handlers = {signum: handler for signum, handler in handlers.items() if signum != signal.SIGHUP}
    previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
