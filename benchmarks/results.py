"""Record the results of a benchmark as one line of JSON, with the date, command, commit and machine."""

import json
import shlex
import sys

from absl import flags

from benchmarks import tables
from resnet_jax.runtime import provenance

provenance.commit()  # Cached, so that a commit that is made while the benchmark runs is not recorded.

OUTPUT = flags.DEFINE_string(
    "output", "benchmarks/results.jsonl", "File to which to append the results. If empty, they are only printed."
)


def add(benchmark: str, **values: object) -> None:
    """Append a line as `append` does, and print it as a table.

    Args:
      benchmark: the name of the benchmark's module, which is also the name of its table in `tables.TABLES`.
      **values: what was measured, as JSON values.
    """
    print(f"\n{tables.TABLES[benchmark]([append(benchmark, **values)])}\n", flush=True)


def append(benchmark: str, **values: object) -> dict:
    """Append a line with these values and with `provenance.describe()` to the file `--output`, and return it."""
    # Leave out --runs and --output, whose paths mean nothing on other machines.
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith(("--runs=", "--output="))]
    command = shlex.join(["python", "-m", f"benchmarks.{benchmark}", *arguments])
    line = {"benchmark": benchmark, "command": command, **provenance.describe(), **values}
    if OUTPUT.value:
        with open(OUTPUT.value, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return line
