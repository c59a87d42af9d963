"""Time of a run by phase: training, input, evaluation, saving and compilation; and its goodput."""

import contextlib
import time
from collections.abc import Iterator, Mapping

PHASES = ("training", "input", "evaluation", "saving", "compilation")
OTHER = "other"


def shares_of_wall_time(seconds_by_phase: Mapping[str, float], wall_seconds: float) -> dict[str, float]:
    """Return the share of each phase in the time since a run began. They sum to 1.

    The share of training is the goodput. What no phase counts is `OTHER`: starting, steps that were lost and repeated,
    and the time between an interruption and the next start.

    Example:
      >>> shares_of_wall_time({"training": 60.0, "input": 15.0}, wall_seconds=100.0)
      {'training': 0.6, 'input': 0.15, 'other': 0.25}
    """
    wall_seconds = max(wall_seconds, sum(seconds_by_phase.values()))  # The clock may have been set back.
    shares = {phase: seconds / wall_seconds for phase, seconds in seconds_by_phase.items()}
    return {**shares, OTHER: 1 - sum(shares.values())}


class PhaseTimer:
    """Counts the seconds of a run by phase, as measured on the host. A resumed run continues from its saved seconds.

    Args:
      earlier: the result of `seconds_by_phase` when the run was saved; {} for a new run.

    Attributes:
      started: the `time.monotonic()` at which this process began to count.

    Example:
      >>> timer = PhaseTimer({"training": 60.0})
      >>> with timer.measure("evaluation"):
      ...     pass
      >>> timer.seconds_without_compilation() > 60
      True
    """

    def __init__(self, earlier: Mapping[str, float]):
        self._seconds = {phase: earlier.get(phase, 0.0) for phase in PHASES}
        self.start()

    def start(self) -> None:
        """Begin to count. The time before is start-up; only its compilation is counted."""
        self.started = time.monotonic()

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count the time within the context for one of `PHASES`."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self._seconds[phase] += seconds
            # Training gets the time since `started` that no other phase takes. Compilation happens before `started`.
            if phase != "compilation":
                self._seconds["training"] -= seconds

    def seconds_by_phase(self) -> dict[str, float]:
        """Return the seconds of each phase.

        "input" is the time that training waits for images, and "saving" the time that it waits for checkpoints.
        """
        return {**self._seconds, "training": self._seconds["training"] + time.monotonic() - self.started}

    def seconds_without_compilation(self) -> float:
        """Return the seconds of all phases except compilation."""
        seconds = self.seconds_by_phase()
        return sum(seconds.values()) - seconds["compilation"]
