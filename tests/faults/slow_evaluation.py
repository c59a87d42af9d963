"""main.py with a slow evaluation: each batch creates the file `evaluating` in the workdir and then waits five seconds.

`LONG_DIGITS` validates on about 60 examples, which fit into one batch.
"""

import pathlib
import runpy
import sys
import time

sys.path.insert(0, "")

from resnet_jax.runtime import parallel
from tests.end_to_end.program import TINY_PROGRAM

place_rows = parallel.place_rows  # called for every batch that is evaluated
(workdir,) = (pathlib.Path(argument.partition("=")[2]) for argument in sys.argv if argument.startswith("--workdir="))


def place_rows_slowly(*arguments):
    (workdir / "evaluating").touch()
    time.sleep(5)
    return place_rows(*arguments)


parallel.place_rows = place_rows_slowly
runpy.run_path(TINY_PROGRAM, run_name="__main__")
