"""Start the program for a run of a study: `python -m resnet_jax.studies.worker main.py train --flags`.

On Linux, the process gets SIGTERM when the process that started it ends. So no run outlives its study, not even if the
study is killed.
"""

import ctypes
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


def end_with_parent() -> None:
    """Let Linux send SIGTERM to this process when its parent ends. Do nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    end_with_parent()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
