"""Ctrl-C without loss: the first asks the loop to stop after its step, the second stops at once."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interruption(announce: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Within this context, gives a function that tells whether Ctrl-C has been pressed; `announce` is called then.

    An exception amid a step would lose the state, whose buffers are donated: hence a flag. Outside the main thread,
    where Python delivers no signals, the function is always False.
    """
    pressed = threading.Event()

    def handle(signum, frame):
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        announce()

    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
