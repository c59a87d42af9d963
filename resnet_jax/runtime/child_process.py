"""Start this program again as a child process, with other arguments.

On Linux, the child gets SIGTERM when its parent ends, even if the parent is killed. So it saves, and ends too.
"""

import ctypes
import os
import pathlib
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


def start(arguments: Sequence[str], environment: Mapping[str, str], **options) -> subprocess.Popen:
    """Start the program that is running now, main.py or the installed resnet-jax.

    The child has a session of its own, so that Ctrl-C does not reach it.

    Args:
      arguments: the command and its flags.
      environment: variables to set, besides those of this process.
      options: further arguments for `subprocess.Popen`, such as `stdout`.
    """
    return subprocess.Popen(
        [sys.executable, "-m", __name__, sys.argv[0], *arguments],
        env={**os.environ, **environment, "PYTHONPATH": _python_path()},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **options,
    )


def _python_path() -> str:
    """Return a PYTHONPATH from which this package can be imported in any working directory."""
    paths = [str(pathlib.Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


def _end_with_parent() -> None:
    """Let Linux send SIGTERM to this process when its parent ends. Do nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    _end_with_parent()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
