"""Terminal output: aligned tables, durations, log lines, and one live progress line.

We do not use `rich`, because its output is worse in a log file, where the output of a run is read most often: the
progress bar of rich 15.0.0 shows nothing there until it ends, and its tables are 80 columns wide and draw boxes. This
module writes a plain progress line every ten seconds, and tables that `grep` and `awk` can read.
"""

import io
import logging
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self, TextIO

from resnet_jax.errors import UserError

LOGGER = "resnet_jax"  # parent of the loggers of all modules in this package
PLAIN_LINE_SECONDS = 10.0
MAX_NAMES_LISTED = 20

# --- Text -------------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Format rows of cells as aligned text: columns of numbers to the right, all other columns to the left.

    Integers get thousands separators. Percentages such as "97.30%" count as numbers, and so does "-".

    Example:
      >>> print(table([("stem", 1234), ("head", 5)], header=("module", "parameters")))
      module  parameters
      ------  ----------
      stem         1,234
      head             5
    """
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [list(header), *cells] if header else cells
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def align(line: list[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    text = [align(line) for line in lines]
    if header:
        text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) or (isinstance(cell, str) and (cell.endswith("%") or cell == "-"))


def scores_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Format the loss and accuracies of each split as a table, with accuracies in percent."""
    rows = [
        (split, f"{means['loss']:.4f}", f"{means['top1']:.2%}", f"{means['top5']:.2%}", means["examples"])
        for split, means in scores.items()
    ]
    return table(rows, header=("split", "loss", "top-1", "top-5", "examples"))


def printable(text: str) -> str:
    """Replace every character that could control a terminal with "?". File names can contain such characters.

    Example:
      >>> printable("cat.png\\x1b[2J")
      'cat.png?[2J'
    """
    return "".join(character if character.isprintable() else "?" for character in text)


def duration(seconds: float) -> str:
    """Format a duration.

    Example:
      >>> duration(4.21), duration(200), duration(7500)
      ('4.2 s', '3 min 20 s', '2 h 05 min')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {whole:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


# --- Output -----------------------------------------------------------------------------------------------------------


def discard_closed_stdout() -> bool:
    """If the program that reads stdout, such as `head`, has exited, discard all further output and return True."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in pipe.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


class Reporter:
    """Shows log lines and one live progress line, and counts the images that cannot be read.

    Within the context of a reporter, messages of the `resnet_jax` logger are printed above the live line, from level
    INFO upwards. On a terminal, the live line is rewritten in place. Elsewhere, it is printed as a plain line, at most
    every ten seconds. Contexts can be nested; only the innermost reporter prints log records.

    Args:
      active: whether to show output; False, for example, with `--format=json`, and in every process of a run except the
        first. An inactive reporter shows only warnings, on stderr.
      stream: where to write; default: stdout.
      max_unreadable: how many unreadable images to accept (`dataset.max_unreadable`); None: any number.

    Attributes:
      unreadable: the name of each unreadable image, and why it cannot be read.

    Example:
      >>> with Reporter() as reporter:
      ...     logging.getLogger("resnet_jax.data").info("Feed: resident.")
      ...     reporter.print("Done.")
      Feed: resident.
      Done.
    """

    def __init__(self, active: bool = True, stream: TextIO | None = None, max_unreadable: int | None = None):
        self.active = active
        self.max_unreadable = max_unreadable
        self.unreadable: dict[str, str] = {}
        self._stream = (stream or sys.stdout) if active else io.StringIO()
        self._live = self._stream.isatty()
        self._shown = ""
        self._last_plain = time.monotonic()

    # Log records

    def __enter__(self) -> Self:
        logger = logging.getLogger(LOGGER)
        self._before = logger.handlers, logger.level, logger.propagate
        others = [handler for handler in logger.handlers if not isinstance(handler, _ReporterHandler)]
        logger.handlers = [*others, _ReporterHandler(self)]
        logger.setLevel(logging.INFO)
        logger.propagate = False
        return self

    def __exit__(self, *exception) -> None:
        logger = logging.getLogger(LOGGER)
        logger.handlers, level, logger.propagate = self._before
        logger.setLevel(level)

    # Lines

    def print(self, text: str) -> None:
        """Remove the live line and print text that stays, such as the result of a command."""
        self.clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def update(self, text: str) -> None:
        """Show `text` on the live line."""
        if self._live:
            text = text[: shutil.get_terminal_size().columns - 1]  # A wrapped line could not be rewritten.
            self._stream.write("\r" + text.ljust(len(self._shown)))
            self._shown = text
        elif time.monotonic() - self._last_plain >= PLAIN_LINE_SECONDS:
            self._last_plain = time.monotonic()
            self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Remove the live line. The next `update` shows one again."""
        if self._shown:
            self._stream.write("\r" + " " * len(self._shown) + "\r")
            self._stream.flush()
            self._shown = ""

    def counter(self, what: str) -> Callable[[int, int], None]:
        """Return a function of (done, total) that shows the progress, the rate and the remaining time of `what`."""
        started = time.monotonic()

        def show(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            remaining = f"  {rate:,.0f}/s  ETA {duration((total - done) / rate)}" if done else ""
            self.update(f"{what}  {done:,}/{total:,}{remaining}")

        return show

    # Unreadable images

    def add_unreadable(self, problems: Iterable[tuple[str, str]]) -> None:
        """Count unreadable images, and log each one once.

        Args:
          problems: pairs of the name of an image and the reason why it cannot be read.
        """
        for name, reason in problems:
            if name not in self.unreadable:
                self.unreadable[name] = reason
                logging.getLogger(__name__).warning("Unreadable: %s: %s", name, reason)

    def check_unreadable(self, count: int | None = None) -> None:
        """Check that the number of unreadable images is at most `max_unreadable`.

        Args:
          count: the number of unreadable images over all processes; None: as many as this reporter has counted.

        Raises:
          UserError: if there are more unreadable images. The message names the first ones.
        """
        count = len(self.unreadable) if count is None else count
        if self.max_unreadable is None or count <= self.max_unreadable:
            return
        noun = "image" if count == 1 else "images"
        names = list(self.unreadable)[:MAX_NAMES_LISTED]
        more = f", and {count - len(names):,} more" if count > len(names) else ""
        raise UserError(
            f"{count:,} {noun} cannot be read, but dataset.max_unreadable allows {self.max_unreadable:,}: "
            f"{', '.join(names)}{more}. Fix or remove them, or raise the limit."
        )


class _ReporterHandler(logging.Handler):
    """Prints log records through a reporter. If the reporter is inactive, prints only warnings, on stderr."""

    def __init__(self, reporter: Reporter):
        super().__init__(logging.INFO if reporter.active else logging.WARNING)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if self._reporter.active:
            self._reporter.print(text)
        else:
            print(text, file=sys.stderr)
