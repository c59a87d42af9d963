import json
import logging
import os
import pathlib
import threading
import time
import types

import pytest
from etils import epath

from resnet_jax.training import metrics_writer
from resnet_jax.training.metrics_writer import Curve, MetricsWriter, TensorBoardWriter, read_curves
from resnet_jax.workdir.workdir import WorkDir


def write(path, resumed_step, steps):
    writer = MetricsWriter(epath.Path(path), resumed_step)
    for step in steps:
        writer.scalars(step, {"train/loss": step / 10})
    return writer


def lines(path: pathlib.Path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def events(path: pathlib.Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    accumulator = EventAccumulator(str(path))
    accumulator.Reload()
    return [
        (event.step, pytest.approx(float(make_ndarray(event.tensor_proto)), rel=1e-6))
        for event in accumulator.Tensors("train/loss")
    ]


def test_read_curves_returns_all_metrics_but_those_of_an_unfinished_line(tmp_path):
    assert read_curves(epath.Path(tmp_path)) == {}
    writer = write(tmp_path, 0, [10, 20])
    writer.scalars(20, {"validation/loss": 3.0})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "train/lo')
    assert read_curves(epath.Path(tmp_path)) == {
        "train/loss": Curve([10, 20], [1.0, 2.0]),
        "validation/loss": Curve([20], [3.0]),
    }


def test_write_if_due_writes_at_most_once_per_second(tmp_path, monkeypatch):
    writer = MetricsWriter(epath.Path(tmp_path), 0)
    steps_on_disk = []
    for step, seconds in ((10, 100.0), (20, 100.5), (30, 100.9), (40, 101.0), (50, 101.5)):
        monkeypatch.setattr(metrics_writer, "time", types.SimpleNamespace(monotonic=lambda now=seconds: now))
        writer.scalars(step, {"train/loss": 1.0})
        writer.write_if_due()
        steps_on_disk.append([line["step"] for line in lines(tmp_path)])
    assert steps_on_disk == [[10], [10], [10], [10, 20, 30, 40], [10, 20, 30, 40]]
    writer.close()
    assert lines(tmp_path)[-1]["step"] == 50


def test_metrics_file_and_tensorboard_hold_the_same_metrics(tmp_path):
    write(tmp_path, 0, [10, 20]).close()
    assert lines(tmp_path) == [{"step": 10, "train/loss": 1.0}, {"step": 20, "train/loss": 2.0}]
    assert events(tmp_path) == [(10, 1.0), (20, 2.0)]


def test_resumed_run_leaves_no_duplicate_or_missing_step(tmp_path):
    """Steps 30 and 40 were recorded after the checkpoint of step 20, and are recorded again."""
    write(tmp_path, 0, [10, 20, 30, 40]).close()
    write(tmp_path, 20, [30, 40, 50]).close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30, 40, 50]
    # TensorBoard reads files written in the same second in the order of their names, not in the order of writing.
    assert sorted(step for step, _ in events(tmp_path)) == [10, 20, 30, 40, 50]


def test_new_run_removes_all_earlier_records(tmp_path):
    write(tmp_path, 0, [10, 20]).close()
    write(tmp_path, 0, [10]).close()
    assert [line["step"] for line in lines(tmp_path)] == [10]
    assert [step for step, _ in events(tmp_path)] == [10]


@pytest.mark.parametrize("damage", [b"3", b"{}", b'{"step": 10, "train/lo\xff', b'{"step": 10, "train/loss": null}'])
def test_damaged_line_is_removed_with_a_warning(tmp_path, caplog, damage):
    write(tmp_path, 0, [10, 20, 30]).close()
    whole = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([damage, *whole[1:]]) + b"\n")
    write(tmp_path, 30, [40]).close()
    assert [line["step"] for line in lines(tmp_path)] == [20, 30, 40]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        f"Line 1 of {tmp_path / 'metrics.jsonl'} is damaged and is removed."
    ]


def test_unfinished_line_of_a_killed_process_is_removed(tmp_path):
    write(tmp_path, 0, [10, 20]).close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "train/lo')
    write(tmp_path, 20, [30]).close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]


def test_line_cut_short_by_a_full_disk_is_removed_and_not_written_twice(tmp_path, monkeypatch):
    writer = write(tmp_path, 0, [10])
    writer.flush()
    writer.scalars(20, {"train/loss": 2.0})
    original_open = type(writer._path).open

    def open_on_full_disk(path, mode="r", *args, **kwargs):
        with original_open(path, mode, *args, **kwargs) as file:
            file.write('{"step": 20, "tra')
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(writer._path), "open", open_on_full_disk)
        with pytest.raises(OSError, match="No space left"):
            writer.flush()
    writer.close()
    write(tmp_path, 10, [20]).close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]


def test_event_files_of_other_runs_are_kept(tmp_path):
    """The name of the run, taken for a pattern, matches that of the other one."""
    pytest.importorskip("tensorflow")
    other = tmp_path / "run1" / "events.out.tfevents.1"
    other.parent.mkdir()
    other.touch()
    run = WorkDir(str(tmp_path / "run[1]"))
    run.make()
    write(run.path, 0, [10]).close()
    write(run.path, 0, [10]).close()
    assert other.exists()
    assert len(os.listdir(run.path)) == 2  # metrics.jsonl and the event file of the second writer


def test_text_with_bytes_that_are_not_utf_8_reaches_tensorboard(tmp_path):
    pytest.importorskip("tensorflow")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    writer = MetricsWriter(epath.Path(tmp_path), 0)
    writer.text(0, "config", "folder:/caf\udce9")
    writer.close()
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    (event,) = accumulator.Tensors("config")
    assert make_ndarray(event.tensor_proto).item() == b"folder:/caf?"


def test_missing_tensorflow_is_logged_and_metrics_are_kept(tmp_path, hide_package, caplog):
    hide_package("tensorflow")
    with caplog.at_level(logging.INFO, "resnet_jax"):
        write(tmp_path, 0, [10]).close()
    assert lines(tmp_path) == [{"step": 10, "train/loss": 1.0}]
    assert "TensorBoard is off" in caplog.text
    assert not list(tmp_path.glob("events*"))


def test_metrics_file_in_a_bucket_is_rewritten_as_a_whole(bucket, hide_package):
    hide_package("clu")  # TensorBoard's writer would look for a real bucket.
    writer = MetricsWriter(epath.Path("gs://bucket/run"), 0)
    (bucket / "run").mkdir()
    for step in (10, 20):
        writer.scalars(step, {"train/loss": step / 10})
        writer.flush()
    resumed = MetricsWriter(epath.Path("gs://bucket/run"), 10)
    resumed.scalars(20, {"train/loss": 5.0})
    resumed.close()
    assert lines(bucket / "run") == [{"step": 10, "train/loss": 1.0}, {"step": 20, "train/loss": 5.0}]


# --- TensorBoardWriter ------------------------------------------------------------------------------------------------


class BlockedWriter:
    """Takes the place of clu's writer: waits for an event before it writes, and then fails if asked to."""

    def __init__(self, fails=False):
        self.unblocked = threading.Event()
        self.calls = []
        self._fails = fails

    def write_scalars(self, step, values):
        self.unblocked.wait()
        if self._fails:
            raise OSError(28, "No space left on device")
        self.calls.append(step)

    def flush(self):
        self.calls.append("flush")

    def close(self):
        self.calls.append("close")


@pytest.fixture
def open_tensorboard(tmp_path, monkeypatch):
    """Return a function that opens a `TensorBoardWriter` with the given writer in place of clu's."""
    pytest.importorskip("tensorflow")

    def open_with(writer):
        monkeypatch.setattr(TensorBoardWriter, "_open", lambda self, *_: setattr(self, "_writer", writer))
        return TensorBoardWriter(epath.Path(tmp_path), None)

    return open_with


def test_tensorboard_writes_in_order_and_only_wait_and_close_wait_for_it(open_tensorboard):
    writer = BlockedWriter()
    tensorboard = open_tensorboard(writer)
    tensorboard.scalars(1, {})
    tensorboard.flush()
    tensorboard.scalars(2, {})
    assert writer.calls == []
    writer.unblocked.set()
    tensorboard.wait()
    assert writer.calls == [1, "flush", 2]
    tensorboard.close()
    assert writer.calls == [1, "flush", 2, "close"]


@pytest.mark.parametrize("call", ["wait", "close"])
def test_tensorboard_error_is_raised_by_wait_and_close(open_tensorboard, call):
    writer = BlockedWriter(fails=True)
    tensorboard = open_tensorboard(writer)
    tensorboard.scalars(1, {})
    writer.unblocked.set()
    with pytest.raises(OSError, match="No space left"):
        getattr(tensorboard, call)()


def test_tensorboard_error_is_raised_by_a_later_write(open_tensorboard):
    writer = BlockedWriter(fails=True)
    tensorboard = open_tensorboard(writer)
    tensorboard.scalars(1, {})
    writer.unblocked.set()
    with pytest.raises(OSError, match="No space left"):
        for _ in range(1000):
            tensorboard.scalars(2, {})
            time.sleep(0.01)
