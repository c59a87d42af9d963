"""Contestants of `contestants.py`, each a process of its own, that take turns."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence


def take(warm_up: Mapping[str, int], case: Sequence[str], rounds: int, seconds: float) -> list["Contestant"]:
    """Has contestants take turns, each once in a round; afterwards they know what theirs took.

    Args:
      warm_up: by the names of those that take part, how many steps they take before they are timed.
      case: network, type and batch size.
      rounds: how many turns each has.
      seconds: of a turn, about; at least as many steps as for warming up.
    """
    print(f"\n{' '.join(case)}", flush=True)
    taking_part = []
    try:
        for name, steps in warm_up.items():
            print(f"  {name} starts ...", flush=True)
            taking_part.append(Contestant(name, case, steps, seconds))
        for number in range(rounds):
            print(f"  round {number + 1} of {rounds} ...", flush=True)
            first = number % len(taking_part)  # Nobody always follows the same one.
            for contestant in taking_part[first:] + taking_part[:first]:
                contestant.turn()
    finally:
        for contestant in taking_part:
            contestant.end()
    return taking_part


class Contestant:
    """A process that takes steps when it is told to.

    Attributes:
      loss: after its first `warm_up` steps.
      steps: of a turn.
      seconds: of a step, in each turn.
    """

    def __init__(self, name: str, case: Sequence[str], warm_up: int, seconds: float):
        arguments = (name, *case, str(warm_up))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contestants", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} has ended: {' '.join(arguments)}")
        self.name, self.loss, self.seconds = name, json.loads(line)["loss"], []
        self.steps = warm_up
        once = self._turn(warm_up)
        self.steps = warm_up * max(1, math.floor(seconds / once))

    def turn(self) -> None:
        """Takes a turn, and notes the seconds of a step."""
        self.seconds.append(self._turn(self.steps) / self.steps)

    def _turn(self, steps: int) -> float:
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} has ended amid a turn: let fewer --contestants share the memory")
        return float(line)

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait()
