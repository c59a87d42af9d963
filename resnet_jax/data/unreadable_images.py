"""The pictures that could not be read: each is told once, and too many stop a run."""

from collections.abc import Callable, Iterable

from resnet_jax.errors import UserError

NAMED_AT_THE_END = 20

Problem = tuple[str, str]  # the name of an example, and why it cannot be read


class UnreadableImages:
    """Counts and tells them, over all splits and epochs of a run.

    Args:
      most: how many are put up with, `dataset.max_unreadable`.
      tell: takes a line for the log.

    Attributes:
      reasons: why they cannot be read, by name.
    """

    def __init__(self, most: int, tell: Callable[[str], None]):
        self._most, self._tell = most, tell
        self.reasons: dict[str, str] = {}

    def add(self, problems: Iterable[Problem]) -> None:
        """Tells what is new."""
        for name, reason in problems:
            if name not in self.reasons:
                self.reasons[name] = reason
                self._tell(f"Unreadable: {name}: {reason}")

    def check(self, count: int | None = None) -> None:
        """Raises `UserError`, with their names, if there are more than are put up with: `count`, else those added."""
        count = len(self.reasons) if count is None else count
        if count > self._most:
            noun = "picture" if count == 1 else "pictures"
            listed = list(self.reasons)[:NAMED_AT_THE_END]
            more = f", and {count - len(listed):,} more" if count > len(listed) else ""
            raise UserError(
                f"{count:,} {noun} cannot be read, where dataset.max_unreadable allows {self._most:,}: "
                f"{', '.join(listed)}{more}. Mend or remove them, or allow more"
            )
