"""A reporter that records progress instead of showing it."""

from resnet_jax.terminal import Reporter


class RecordingReporter(Reporter):
    """Shows nothing, and records each update of a counter.

    Attributes:
      progress: the updates in order, as (name of the counter, number done, total number).
    """

    def __init__(self, max_unreadable: int | None = None):
        super().__init__(active=False, max_unreadable=max_unreadable)
        self.progress: list[tuple[str, int, int]] = []

    def counter(self, what):
        return lambda done, total: self.progress.append((what, done, total))
