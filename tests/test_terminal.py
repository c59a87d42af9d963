import io
import sys

import pytest

from resnet_jax import terminal


def test_table_aligns_numbers_to_the_right():
    assert terminal.table([("stem", 1234), ("head", 5)], header=("module", "parameters")).split("\n") == [
        "module  parameters",
        "------  ----------",
        "stem         1,234",
        "head             5",
    ]


def test_percentages_are_numbers_and_so_is_what_is_missing_among_them():
    rows = terminal.table([("cat", "97.30%"), ("dog", "-"), ("bird", "100.00%")], header=("class", "recall"))
    assert [row[-7:] for row in rows.split("\n")[2:]] == [" 97.30%", "      -", "100.00%"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2 s"), (59.94, "59.9 s"), (59.99, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds, text):
    assert terminal.duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_live_line_is_rewritten_and_cleared(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    progress = terminal.ProgressLine()
    progress.update("step 100")
    progress.update("step 9")
    progress.print("done")
    assert stream.getvalue() == "\rstep 100\rstep 9  \r      \rdone\n"


def test_live_line_never_wraps(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "20")
    terminal.ProgressLine().update("x" * 50)
    assert stream.getvalue() == "\r" + "x" * 19


def test_elsewhere_plain_lines_come_at_most_every_ten_seconds(monkeypatch):
    stream, clock = io.StringIO(), iter([0.0, 5.0, 11.0, 11.0, 12.0])
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    progress = terminal.ProgressLine()
    for text in ("early", "shown", "soon after"):
        progress.update(text)
    assert stream.getvalue() == "shown\n"


def test_inactive_shows_nothing(capsys):
    progress = terminal.ProgressLine(active=False)
    progress.print("hello")
    assert capsys.readouterr().out == ""


def test_another_stream_and_a_line_taken_away(monkeypatch, capsys):
    stream = Terminal()
    progress = terminal.ProgressLine(stream=stream)
    progress.update("step 1")
    progress.clear()
    progress.clear()
    progress.update("2")
    assert stream.getvalue() == "\rstep 1\r      \r\r2"
    assert capsys.readouterr().out == ""


def test_what_a_terminal_would_obey_is_not_printed():
    assert terminal.printable("Ünï cödé 猫\n\x1b[2J\udcff\u202e") == "Ünï cödé 猫??[2J??"
