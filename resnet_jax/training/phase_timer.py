"""Time of a run by phase: training, input, evaluation, saving and compilation."""

import contextlib
import time
from collections.abc import Iterator, Mapping

PHASES = ("training", "input", "evaluation", "saving", "compilation")


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
