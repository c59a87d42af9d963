"""What the user sees in a terminal: aligned tables, durations, and one live progress line."""

import io
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

PLAIN_LINE_SECONDS = 10.0


def table(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Rows of cells as aligned text: numbers to the right, integers with thousands separators, the rest to the left.

    Percentages, such as "97.30%", are numbers, and so is "-" among them.
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
    """Figures a split, with accuracies in percent."""
    rows = [
        (split, f"{of['loss']:.4f}", f"{of['top1']:.2%}", f"{of['top5']:.2%}", of["examples"])
        for split, of in scores.items()
    ]
    return table(rows, header=("split", "loss", "top-1", "top-5", "examples"))


def printable(text: str) -> str:
    """Text, such as the name of a file, in one line that does nothing to a terminal: all else in it becomes "?"."""
    return "".join(character if character.isprintable() else "?" for character in text)


def nobody_reads() -> bool:
    """Whether stdout has lost its reader, such as `head`, who has had enough; what is printed then goes nowhere."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in pipe.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def duration(seconds: float) -> str:
    """4.2 s, 3 min 20 s, or 2 h 05 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {whole:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class ProgressLine:
    """One line that is rewritten in place on a terminal; elsewhere a plain line at most every ten seconds.

    It is on stdout, or on another `stream`. Unless `active`, as in the other processes of a multi-host run, it shows
    nothing.
    """

    def __init__(self, active: bool = True, stream: TextIO | None = None):
        self._active = active
        self._stream = (stream or sys.stdout) if active else io.StringIO()
        self._live = self._stream.isatty()
        self._shown = ""
        self._last_plain = time.monotonic()

    def update(self, text: str) -> None:
        """Shows `text` as the state of things."""
        if self._live:
            text = text[: shutil.get_terminal_size().columns - 1]  # A wrapped line could not be rewritten.
            self._stream.write("\r" + text.ljust(len(self._shown)))
            self._shown = text
        elif time.monotonic() - self._last_plain >= PLAIN_LINE_SECONDS:
            self._last_plain = time.monotonic()
            self._stream.write(text + "\n")
        self._stream.flush()

    def print(self, text: str) -> None:
        """Prints lasting lines of `text`, in place of the live line."""
        self.clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Takes the live line away, until the next update."""
        if self._shown:
            self._stream.write("\r" + " " * len(self._shown) + "\r")
            self._stream.flush()
            self._shown = ""

    def warn(self, text: str) -> None:
        """Prints what must not be missed; where this line shows nothing, on stderr."""
        if self._active:
            self.print(text)
        else:
            print(text, file=sys.stderr)

    def counter(self, what: str) -> Callable[[int, int], None]:
        """A function of (done, total) that shows how far `what` has come, how fast, and when it will be done."""
        started = time.monotonic()

        def show(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            left = f"  {rate:,.0f}/s  ETA {duration((total - done) / rate)}" if done else ""
            self.update(f"{what}  {done:,}/{total:,}{left}")

        return show
