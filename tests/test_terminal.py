import errno
import io
import logging
import os
import sys

import pytest

from resnet_jax.errors import OutputClosed, UserError
from resnet_jax.terminal import Reporter, duration, print_result, printable, standard_streams, table


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestText:
    def test_table_aligns_numbers_to_the_right(self):
        assert table([("stem", 1234), ("head", 5)], header=("module", "parameters")).split("\n") == [
            "module  parameters",
            "------  ----------",
            "stem         1,234",
            "head             5",
        ]

    def test_table_treats_percentages_and_dashes_as_numbers(self):
        rows = table([("cat", "97.30%"), ("dog", "-"), ("bird", "100.00%")], header=("class", "recall"))
        assert [row[-7:] for row in rows.split("\n")[2:]] == [" 97.30%", "      -", "100.00%"]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(4.21, "4.2 s"), (59.94, "59.9 s"), (59.99, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
    )
    def test_duration_has_at_most_two_units(self, seconds, text):
        assert duration(seconds) == text

    def test_printable_replaces_control_characters(self):
        assert printable("Ünï cödé 猫\n\x1b[2J\udcff\u202e") == "Ünï cödé 猫??[2J??"


class TestLiveLine:
    def test_live_line_is_rewritten_and_cleared(self, monkeypatch):
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        reporter = Reporter()
        reporter.update("step 100")
        reporter.update("step 9")
        reporter.print("done")
        assert stream.getvalue() == "\rstep 100\rstep 9  \r      \rdone\n"

    def test_never_wraps(self, monkeypatch):
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("COLUMNS", "20")
        Reporter().update("x" * 50)
        assert stream.getvalue() == "\r" + "x" * 19

    def test_without_a_terminal_is_a_plain_line_at_most_every_ten_seconds(self, monkeypatch):
        stream, clock = io.StringIO(), iter([0.0, 5.0, 11.0, 11.0, 12.0])
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr("resnet_jax.terminal.time.monotonic", lambda: next(clock))
        reporter = Reporter()
        for text in ("early", "shown", "soon after"):
            reporter.update(text)
        assert stream.getvalue() == "shown\n"

    def test_of_another_stream_can_be_removed(self, capsys):
        stream = Terminal()
        reporter = Reporter(stream=stream)
        reporter.update("step 1")
        reporter.clear()
        reporter.clear()
        reporter.update("2")
        assert stream.getvalue() == "\rstep 1\r      \r\r2"
        assert capsys.readouterr().out == ""

    def test_of_an_inactive_reporter_is_not_shown(self, capsys):
        reporter = Reporter(active=False)
        reporter.print("hello")
        reporter.update("step 1")
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("done", "shown"), [(1000, "1,000/3,000  500/s  ETA 4.0 s"), (1, "1/3,000  0.5/s  ETA 1 h 39 min")]
    )
    def test_counter_shows_rate_and_remaining_time(self, monkeypatch, done, shown):
        stream, clock = Terminal(), iter([0.0, 0.0, 2.0])
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr("resnet_jax.terminal.time.monotonic", lambda: next(clock))
        Reporter(stream=stream).counter("reading examples")(done, 3000)
        assert stream.getvalue() == f"\rreading examples  {shown}"

    def test_live_line_is_removed_at_the_end_of_the_context(self):
        stream = Terminal()
        with Reporter(stream=stream) as reporter:
            reporter.update("step 1")
        assert stream.getvalue() == "\rstep 1\r      \r"


class TestLogRecords:
    logger = logging.getLogger("resnet_jax.some.module")

    def test_replace_the_live_line_within_the_context(self):
        stream = Terminal()
        with Reporter(stream=stream) as reporter:
            reporter.update("step 1")
            self.logger.info("Feed: %s", "resident")
            self.logger.debug("details")
        assert stream.getvalue() == "\rstep 1\r      \rFeed: resident\n"

    def test_log_records_are_handled_as_before_after_the_context(self, capsys):
        logger = logging.getLogger("resnet_jax")
        before = list(logger.handlers), logger.level, logger.propagate
        with pytest.raises(ValueError), Reporter():
            raise ValueError
        assert (list(logger.handlers), logger.level, logger.propagate) == before
        self.logger.info("quiet")
        assert capsys.readouterr().out == ""

    def test_of_an_inactive_reporter_are_warnings_on_stderr(self, capsys):
        with Reporter(active=False):
            self.logger.info("quiet")
            self.logger.warning("loud")
        output = capsys.readouterr()
        assert (output.out, output.err) == ("", "loud\n")

    def test_of_nested_reporters_are_printed_once(self):
        outer, inner = io.StringIO(), io.StringIO()
        with Reporter(stream=outer):
            with Reporter(stream=inner):
                self.logger.info("inner")
            self.logger.info("outer")
        assert (outer.getvalue(), inner.getvalue()) == ("outer\n", "inner\n")

    def test_still_reach_other_handlers(self):
        logger, records = logging.getLogger("resnet_jax"), []
        handler = logging.Handler()
        handler.emit = records.append
        logger.addHandler(handler)
        try:
            with Reporter(active=False):
                self.logger.info("kept")
        finally:
            logger.removeHandler(handler)
        assert [record.getMessage() for record in records] == ["kept"]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", "Kätzchen ? 猫"), ("gbk", "K?tzchen ? 猫"), ("latin-1", "Kätzchen ? ?"), ("ascii", "K?tzchen ? ?")],
)
def test_characters_that_the_stream_cannot_encode_are_replaced(monkeypatch, encoding, expected):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    for write in (print_result, Reporter().print):
        write("Kätzchen \udcff 猫")
    assert stdout.buffer.getvalue().decode(encoding) == f"{expected}\n{expected}\n"


class Unwritable(Terminal):
    """A terminal or file to which writing fails."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


class TestUnwritableOutput:
    logger = logging.getLogger("resnet_jax.some.module")

    @pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC], ids=["pipe", "terminal", "disk"])
    def test_does_not_stop_the_work_that_reports_progress(self, monkeypatch, number):
        monkeypatch.setattr(sys, "stdout", Unwritable(number))
        monkeypatch.setattr(sys, "stderr", Unwritable(number))
        with Reporter() as reporter:
            reporter.update("step 1")
            self.logger.info("Feed: resident")
            reporter.print("Compiling ...")
        with Reporter(active=False):
            self.logger.warning("Unreadable: a.jpg")

    def test_missing_streams_do_not_stop_the_work_and_warnings_do_not_move_to_stdout(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "stderr", None)
        with Reporter(active=False):
            self.logger.warning("Unreadable: a.jpg")
        assert capsys.readouterr().out == ""
        monkeypatch.setattr(sys, "stdout", None)
        with Reporter() as reporter:
            reporter.update("step 1")
            self.logger.info("Feed: resident")

    def test_makes_a_lost_result_an_error(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", Unwritable(errno.EPIPE))
        with pytest.raises(OutputClosed):
            print_result("accuracy")
        monkeypatch.setattr(sys, "stdout", Unwritable(errno.ENOSPC))
        with pytest.raises(UserError, match=r"^cannot write the result to stdout \(No space left on device\)\. "):
            print_result("accuracy")

    def test_missing_standard_streams_are_opened(self, monkeypatch):
        for name in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, name, None)
        with standard_streams():
            assert sys.stdin.buffer.read() == b""
            print("discarded", file=sys.stderr, flush=True)
            with pytest.raises(UserError, match=r"^cannot write the result to stdout \(Bad file descriptor\)"):
                print_result("accuracy")
        with sys.stdin, sys.stdout, sys.stderr:
            pass


class TestUnreadableImages:
    def test_unreadable_images_are_logged_and_counted_once_over_all_epochs(self, caplog):
        reporter = Reporter(max_unreadable=2)
        assert len(reporter.unreadable) == 0
        for _ in range(3):
            reporter.add_unreadable([("a.jpg", "it is wet")])
            reporter.add_unreadable([("b.jpg", "it is torn"), ("a.jpg", "it is wet")])
            reporter.add_unreadable([])
        assert caplog.messages == ["Unreadable: a.jpg: it is wet", "Unreadable: b.jpg: it is torn"]
        assert len(reporter.unreadable) == 2

    def test_beyond_the_limit_raise_an_error_that_names_them(self, caplog):
        reporter = Reporter(max_unreadable=1)
        reporter.add_unreadable([("a.jpg", "wet")])
        reporter.check_unreadable()
        reporter.add_unreadable([("b.jpg", "torn")])
        with pytest.raises(UserError, match=r"^2 images .*max_unreadable allows 1: a\.jpg, b\.jpg\. Fix or remove"):
            reporter.check_unreadable()
        assert len(caplog.messages) == 2

    def test_unreadable_images_can_be_checked_by_a_count_over_all_processes(self):
        reporter = Reporter(max_unreadable=3)
        reporter.add_unreadable([("a.jpg", "wet")])
        reporter.check_unreadable(3)
        with pytest.raises(UserError, match=r"^4 images .*max_unreadable allows 3: a\.jpg"):
            reporter.check_unreadable(4)

    def test_unreadable_images_can_be_forbidden(self):
        reporter = Reporter(max_unreadable=0)
        reporter.add_unreadable([("a.jpg", "wet")])
        with pytest.raises(UserError, match=r"1 image .* allows 0: a\.jpg"):
            reporter.check_unreadable()

    def test_unreadable_images_are_unlimited_by_default(self):
        reporter = Reporter()
        reporter.add_unreadable([("a.jpg", "wet")])
        reporter.check_unreadable()

    def test_beyond_the_first_twenty_are_not_named(self):
        reporter = Reporter(max_unreadable=100)
        reporter.add_unreadable([(f"{number}.jpg", "wet") for number in range(1500)])
        with pytest.raises(UserError) as error:
            reporter.check_unreadable()
        assert "1,500 images cannot be read, but dataset.max_unreadable allows 100" in str(error.value)
        assert "0.jpg, 1.jpg" in str(error.value)
        assert "19.jpg, and 1,480 more" in str(error.value)
        assert "20.jpg" not in str(error.value)
