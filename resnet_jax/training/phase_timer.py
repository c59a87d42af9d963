"""Where the time of a run goes."""

import contextlib
import time
from collections.abc import Iterator, Mapping

PURPOSES = ("training", "input", "evaluation", "saving", "compilation")


class PhaseTimer:
    """Counts the seconds of a run over all its processes, by what the host was at or waited for.

    Attributes:
      started: when this process started to count, as `time.monotonic` has it.
    """

    def __init__(self, earlier: Mapping[str, float]):
        """Goes on from what `spent` gave when the run was saved; {} at its start."""
        self._spent = {purpose: earlier.get(purpose, 0.0) for purpose in PURPOSES}
        self.start()

    def start(self) -> None:
        """Counts from here on: what came before is start-up, of which only compilation is counted."""
        self.started = time.monotonic()

    @contextlib.contextmanager
    def spending(self, purpose: str) -> Iterator[None]:
        """Counts what happens inside for one of `PURPOSES`."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self._spent[purpose] += seconds
            if purpose != "compilation":
                self._spent["training"] -= seconds  # It is what all others leave.

    def spent(self) -> dict[str, float]:
        """Seconds for each of `PURPOSES`: "input" is the wait for pictures, "saving" what training waits for it."""
        return {**self._spent, "training": self._spent["training"] + time.monotonic() - self.started}

    def seconds(self) -> float:
        """All of them but compilation."""
        spent = self.spent()
        return sum(spent.values()) - spent["compilation"]
