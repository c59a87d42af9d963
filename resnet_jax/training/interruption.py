"""Ctrl-C without loss: the first asks the loop to save and stop, the second stops at once."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax


@contextlib.contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Within this context, gives a function that tells whether Ctrl-C has been pressed.

    An exception amid a step would lose the state, whose buffers are donated: hence a flag. It is always False outside
    the main thread, where Python delivers no signals, and in a run of several processes, which save together or not at
    all: there Ctrl-C ends the process as usual.
    """
    pressed = threading.Event()

    def handle(signum, frame):
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield pressed.is_set
        return
    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
