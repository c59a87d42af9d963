"""Let contestants take turns, each in its own process. `contestants.MODULES` says which modules define them."""

import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence


def take_turns(warm_up: Mapping[str, int], case: Sequence[str], rounds: int, seconds: float) -> list["Contestant"]:
    """Time contestants in rounds, in each of which every contestant has one turn, and return them with their times.

    Args:
      warm_up: how many steps each contestant takes before it is timed, by its name.
      case: name of the model, dtype and batch size.
      rounds: the number of rounds.
      seconds: the approximate duration of a turn. A turn has at least as many steps as the warm-up.
    """
    print(f"\n{' '.join(case)}", flush=True)
    contestants = []
    try:
        for name, steps in warm_up.items():
            print(f"  {name} starts ...", flush=True)
            contestants.append(Contestant(name, case, steps, seconds))
        for number in range(rounds):
            print(f"  round {number + 1} of {rounds} ...", flush=True)
            first = number % len(contestants)  # Each round starts with another contestant.
            for contestant in contestants[first:] + contestants[:first]:
                contestant.take_turn()
    finally:
        for contestant in contestants:
            contestant.end()
    return contestants


class Contestant:
    """A process that takes steps on request.

    Attributes:
      name: the name of its function; see `contestants.MODULES`.
      loss: the loss after its `warm_up` steps.
      steps: steps per turn.
      seconds: seconds per step, one value per turn.
    """

    def __init__(self, name: str, case: Sequence[str], warm_up: int, seconds: float):
        arguments = (name, *case, str(warm_up))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contestants", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} ended before it was ready ({' '.join(arguments)})")
        self.name = name
        self.loss = json.loads(line)["loss"]
        self.seconds = []
        self.steps = warm_up * max(1, math.floor(seconds / self._time(warm_up)))

    def take_turn(self) -> None:
        """Take a turn, and record the seconds per step."""
        self.seconds.append(self._time(self.steps) / self.steps)

    def _time(self, steps: int) -> float:
        """Take steps, and return the seconds that they took."""
        with contextlib.suppress(BrokenPipeError):  # If the process has ended, there is nothing to read either.
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended during a turn. If memory ran out, compare fewer --contestants.")
        return float(line)

    def end(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
