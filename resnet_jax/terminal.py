"""Terminal output: aligned tables, durations, log lines, and one live progress line.

We do not use `rich`, because its output is worse in a log file, where the output of a run is read most often: the
progress bar of rich 15.0.0 shows nothing there until it ends, and its tables are 80 columns wide and draw boxes. This
module writes a plain progress line every ten seconds, and tables that `grep` and `awk` can read.
"""

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Self, TextIO

from resnet_jax.errors import OutputClosed, UserError

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


# How metrics that are fractions are called in texts, by their names in dicts.
METRIC_TITLES = {"knn": "kNN top-1", "map": "mAP", "f1": "F1", "top1": "top-1", "top5": "top-5"}


def metric_titles(means: Mapping[str, object]) -> dict[str, str]:
    """Return the titles of those metrics that are fractions, by name.

    Example:
      >>> metric_titles({"loss": 0.5, "top1": 0.9, "top5": 1.0})
      {'top1': 'top-1', 'top5': 'top-5'}
    """
    return {name: title for name, title in METRIC_TITLES.items() if name in means}


def primary_metric(means: Mapping[str, object]) -> tuple[str, str]:
    """Return the most important metric that is a fraction: its name and its title.

    Example:
      >>> primary_metric({"loss": 0.5, "top1": 0.9, "top5": 1.0})
      ('top1', 'top-1')
    """
    return next(iter(metric_titles(means).items()))


def scores_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Format the loss, if there is one, and the other metrics of each split as a table, with fractions in percent."""
    first = next(iter(scores.values()))
    titles = metric_titles(first)
    losses = {split: [f"{means['loss']:.4f}"] if "loss" in first else [] for split, means in scores.items()}
    rows = [
        (split, *losses[split], *(f"{means[name]:.2%}" for name in titles), means["examples"])
        for split, means in scores.items()
    ]
    return table(rows, header=("split", *(["loss"] if "loss" in first else []), *titles.values(), "examples"))


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


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Within this context, stdin, stdout and stderr are open, even if the program was started without them.

    Otherwise, the next files that the program opens would get their descriptors, and libraries would print into these
    files. A missing stdin is empty, a missing stderr discards what is written, and a missing stdout cannot be written,
    so that a lost result is an error.

    When the context ends, text that could not be written is discarded. Otherwise, Python would try again to write it
    when it exits, and change the exit code to 120.
    """
    access_and_mode = {"stdin": (os.O_RDONLY, "r"), "stdout": (os.O_RDONLY, "w"), "stderr": (os.O_WRONLY, "w")}
    for name, (access, mode) in access_and_mode.items():
        if getattr(sys, name) is None:
            # The system assigns the lowest free descriptor, which is the one of this stream.
            descriptor = os.open(os.devnull, access)
            os.set_inheritable(descriptor, True)  # Worker processes need the standard streams, too.
            setattr(sys, name, open(descriptor, mode, encoding="utf-8"))  # noqa: SIM115  It stays open until the end.
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_result(text: str) -> None:
    """Print the result of a command, or a part of it, to stdout.

    Raises:
      OutputClosed: if the program that reads stdout has ended.
      UserError: if stdout cannot be written for another reason.
    """
    try:
        _write(text + "\n", sys.stdout)
    except BrokenPipeError as error:
        raise OutputClosed from error
    except OSError as error:
        raise UserError(
            f"cannot write the result to stdout ({error.strerror}). Direct stdout to a terminal, a file with enough "
            "space or another program."
        ) from error


def print_if_possible(text: str, stream: TextIO | None, end: str = "\n") -> None:
    """Print a log line, a progress line or an error message. If that fails, continue: the work matters more.

    It fails if the terminal is closed, the program that reads the stream has ended, or the disk is full. The stream is
    None if the program was started without it.
    """
    if stream is not None:
        with contextlib.suppress(OSError):
            _write(text + end, stream)


def _write(text: str, stream: TextIO) -> None:
    """Write text, with "?" for what the stream cannot encode, such as the name of a file that is not UTF-8."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(stream.encoding, errors="replace").decode(stream.encoding))
    stream.flush()


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
        self._stream = (stream or sys.stdout) if active else None
        self._live = self._stream is not None and self._stream.isatty()
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
        self.clear()
        logger = logging.getLogger(LOGGER)
        logger.handlers, level, logger.propagate = self._before
        logger.setLevel(level)

    # Lines

    def print(self, text: str) -> None:
        """Remove the live line and print text that stays. To print the result of a command, use `print_result`."""
        self.clear()
        print_if_possible(text, self._stream)

    def update(self, text: str) -> None:
        """Show `text` on the live line."""
        if self._live:
            text = text[: shutil.get_terminal_size().columns - 1]  # A wrapped line could not be rewritten.
            print_if_possible("\r" + text.ljust(len(self._shown)), self._stream, end="")
            self._shown = text
        elif time.monotonic() - self._last_plain >= PLAIN_LINE_SECONDS:
            self._last_plain = time.monotonic()
            print_if_possible(text, self._stream)

    def clear(self) -> None:
        """Remove the live line. The next `update` shows one again."""
        if self._shown:
            print_if_possible("\r" + " " * len(self._shown) + "\r", self._stream, end="")
            self._shown = ""

    def counter(self, what: str) -> Callable[[int, int], None]:
        """Return a function of (done, total) that shows the progress, the rate and the remaining time of `what`."""
        started = time.monotonic()

        def show(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            shown_rate = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            remaining = f"  {shown_rate}/s  ETA {duration((total - done) / rate)}" if done else ""
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


def enumerate_names(names: Sequence[str], limit: int) -> str:
    """Return the first `limit` names, separated by commas, and how many more there are.

    Example:
      >>> enumerate_names(["cat", "dog", "owl", "fox"], 2)
      'cat, dog and 2 more'
    """
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


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
            print_if_possible(text, sys.stderr)
