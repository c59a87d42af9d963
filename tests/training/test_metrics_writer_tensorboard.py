import threading

import pytest
from etils import epath

from resnet_jax.training.metrics_writer import TensorBoard

pytest.importorskip("tensorflow")


class Writer:
    """Stands in for that of clu: waits until it may go on, and fails where it is told to."""

    def __init__(self, fails=False):
        self.may_go_on, self.done, self._fails = threading.Event(), [], fails

    def write_scalars(self, step, values):
        self.may_go_on.wait()
        if self._fails:
            raise OSError(28, "No space left on device")
        self.done.append(step)

    def flush(self):
        self.done.append("flush")

    def close(self):
        self.done.append("close")


@pytest.fixture
def opened(tmp_path, monkeypatch):
    def open_with(writer):
        monkeypatch.setattr(TensorBoard, "_open", lambda self, *_: setattr(self, "_writer", writer))
        return TensorBoard(epath.Path(tmp_path), None, print)

    return open_with


def test_nobody_waits_but_who_asks_to_and_all_is_written_in_order(opened):
    writer = Writer()
    board = opened(writer)
    board.scalars(1, {})
    board.flush()
    board.scalars(2, {})
    assert writer.done == []
    writer.may_go_on.set()
    board.wait()
    assert writer.done == [1, "flush", 2]
    board.close()
    assert writer.done == [1, "flush", 2, "close"]


@pytest.mark.parametrize("call", ["wait", "close"])
def test_what_goes_wrong_in_the_thread_is_raised(opened, call):
    writer = Writer(fails=True)
    board = opened(writer)
    board.scalars(1, {})
    writer.may_go_on.set()
    with pytest.raises(OSError, match="No space left"):
        getattr(board, call)()


def test_it_is_raised_by_a_later_figure_too(opened):
    writer = Writer(fails=True)
    board = opened(writer)
    board.scalars(1, {})
    writer.may_go_on.set()
    with pytest.raises(OSError, match="No space left"):
        while True:
            board.scalars(2, {})
