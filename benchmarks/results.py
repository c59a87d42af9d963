"""Where benchmarks add their figures, a line of JSON each: what, when, by which command and code, on which machine."""

import json
import shlex
import sys

from absl import flags

from benchmarks import tables
from resnet_jax.runtime import provenance

OUTPUT = flags.DEFINE_string("output", "benchmarks/results.jsonl", "Where a line with all figures is added; '': none.")


def add(benchmark: str, **figures: object) -> None:
    """Adds a line with these figures, JSON values, and all that `provenance.describe` knows; shows them as a table."""
    command = shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]])
    line = {"benchmark": benchmark, "command": command, **provenance.describe(), **figures}
    if OUTPUT.value:
        with open(OUTPUT.value, "a") as file:
            file.write(json.dumps(line) + "\n")
    print(f"\n{tables.TABLES[benchmark]([line])}\n", flush=True)
