"""The pictures that could not be read: each is told once, and too many stop a run."""

from collections.abc import Callable, Iterable

from resnet_jax.errors import UserError

NAMED_AT_THE_END = 20

Problem = tuple[str, str]  # the name of an example, and why it cannot be read


class UnreadablePictures:
    """Counts and tells them, over all splits and epochs of a run.

    Args:
      most: how many are put up with, `dataset.max_unreadable`.
      tell: takes a line for the log.
    """

    def __init__(self, most: int, tell: Callable[[str], None]):
        self._most, self._tell = most, tell
        self._reasons: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, problems: Iterable[Problem]) -> None:
        """Raises `UserError`, with their names, when there are more than are put up with."""
        for name, reason in problems:
            if name not in self._reasons:
                self._reasons[name] = reason
                self._tell(f"Unreadable: {name}: {reason}")
        if len(self) > self._most:
            listed = list(self._reasons)[:NAMED_AT_THE_END]
            more = f", and {len(self) - len(listed):,} more" if len(self) > len(listed) else ""
            raise UserError(
                f"{len(self):,} pictures cannot be read, where dataset.max_unreadable allows {self._most:,}: "
                f"{', '.join(listed)}{more}. Mend or remove them, or allow more"
            )
