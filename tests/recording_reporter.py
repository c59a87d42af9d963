"""A reporter for tests."""

from resnet_jax.terminal import Reporter


class RecordingReporter(Reporter):
    """Records the progress that its counters are given as `(what, done, total)`, and shows nothing."""

    def __init__(self, max_unreadable: int | None = None):
        super().__init__(active=False, max_unreadable=max_unreadable)
        self.progress: list[tuple[str, int, int]] = []

    def counter(self, what):
        return lambda done, total: self.progress.append((what, done, total))
