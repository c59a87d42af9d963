"""What libraries say by themselves (no TPU here, a checkpoint without metrics, ...), which is not for the user.

What goes wrong is raised, and told in one sentence. `--verbosity=0` shows their messages too.
"""

import os
import sys

from absl import logging


def silence() -> None:
    """Leaves stderr to the program; to be called before the libraries are imported."""
    logging.set_verbosity(logging.FATAL)
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # Or TensorFlow greets with a warning about it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.unraisablehook = _show_unraisable


def _show_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Shows what could not be raised, as Python does, but for what TensorStore leaves behind.

    Orbax raises the first error of a save and closes its event loop; TensorStore's threads go on to tell that loop of
    every other array, pages of tracebacks, some after the program's last words.
    """
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)
