"""Hide the messages of libraries, such as "no TPU found" or "checkpoint without metrics", from the user.

Real problems are raised as exceptions, and reported in a short error. `--verbosity=0` shows all messages.
"""

import os
import sys

from absl import logging


def silence() -> None:
    """Keep libraries from writing to stderr. Call this before they are imported."""
    logging.set_verbosity(logging.FATAL)
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # Otherwise TensorFlow starts with a warning about oneDNN.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.unraisablehook = _show_unraisable


def _show_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Print an exception that could not be raised, as Python does, unless TensorStore causes it after a failed save.

    Orbax raises the first error of a save and closes its event loop. TensorStore's threads still report every other
    array to that loop. Each report fails, which would print pages of tracebacks, some of them after the program's final
    message.
    """
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)
