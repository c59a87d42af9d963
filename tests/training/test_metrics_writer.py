import json
import pathlib
import types

import pytest
from etils import epath

from resnet_jax.terminal import ProgressLine
from resnet_jax.training import metrics_writer as module
from resnet_jax.training.metrics_writer import Curve, MetricsWriter, read_curves


def write(path, resumed_step, steps):
    summaries = MetricsWriter(epath.Path(path), resumed_step, ProgressLine())
    for step in steps:
        summaries.scalars(step, {"train/loss": step / 10})
    return summaries


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


def test_curves_come_back_but_for_a_line_that_is_not_whole(tmp_path):
    assert read_curves(epath.Path(tmp_path)) == {}
    summaries = write(tmp_path, 0, [10, 20])
    summaries.scalars(20, {"validation/loss": 3.0})
    summaries.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "train/lo')
    assert read_curves(epath.Path(tmp_path)) == {
        "train/loss": Curve([10, 20], [1.0, 2.0]),
        "validation/loss": Curve([20], [3.0]),
    }


def test_figures_can_be_seen_once_in_a_while_before_all_is_flushed(tmp_path, monkeypatch):
    summaries = MetricsWriter(epath.Path(tmp_path), 0, ProgressLine())
    seen = []
    for step, seconds in ((10, 100.0), (20, 100.5), (30, 100.9), (40, 101.0), (50, 101.5)):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda now=seconds: now))
        summaries.scalars(step, {"train/loss": 1.0})
        summaries.show()
        seen.append([line["step"] for line in lines(tmp_path)])
    assert seen == [[10], [10], [10], [10, 20, 30, 40], [10, 20, 30, 40]]
    summaries.close()
    assert lines(tmp_path)[-1]["step"] == 50


def test_both_records_hold_the_same_figures(tmp_path):
    write(tmp_path, 0, [10, 20]).close()
    assert lines(tmp_path) == [{"step": 10, "train/loss": 1.0}, {"step": 20, "train/loss": 2.0}]
    assert events(tmp_path) == [(10, 1.0), (20, 2.0)]


def test_a_resumed_run_leaves_no_step_twice_and_none_out(tmp_path):
    """Steps 30 and 40 came after the checkpoint of step 20, and are taken again."""
    write(tmp_path, 0, [10, 20, 30, 40]).close()
    write(tmp_path, 20, [30, 40, 50]).close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30, 40, 50]
    # TensorBoard reads files of the same second in the order of their names, not of their writing.
    assert sorted(step for step, _ in events(tmp_path)) == [10, 20, 30, 40, 50]


def test_a_run_that_begins_anew_leaves_nothing_of_the_old(tmp_path):
    write(tmp_path, 0, [10, 20]).close()
    write(tmp_path, 0, [10]).close()
    assert [line["step"] for line in lines(tmp_path)] == [10]
    assert [step for step, _ in events(tmp_path)] == [10]


@pytest.mark.parametrize("damage", [b"3", b"{}", b'{"step": 10, "train/lo\xff', b'{"step": 10, "train/loss": null}'])
def test_a_damaged_line_is_told_and_the_others_stay(tmp_path, capsys, damage):
    write(tmp_path, 0, [10, 20, 30]).close()
    whole = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([damage, *whole[1:]]) + b"\n")
    write(tmp_path, 30, [40]).close()
    assert [line["step"] for line in lines(tmp_path)] == [20, 30, 40]
    assert "Line 1 of" in capsys.readouterr().out


def test_a_line_that_a_killed_process_left_unfinished_is_dropped(tmp_path):
    write(tmp_path, 0, [10, 20]).close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "train/lo')
    write(tmp_path, 20, [30]).close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]


def test_a_line_that_a_full_disk_cut_short_is_dropped_and_not_written_twice(tmp_path, monkeypatch):
    summaries = write(tmp_path, 0, [10])
    summaries.flush()
    summaries.scalars(20, {"train/loss": 2.0})
    opened = type(summaries._path).open

    def full(path, mode="r", *arguments, **keywords):
        with opened(path, mode, *arguments, **keywords) as file:
            file.write('{"step": 20, "tra')
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(summaries._path), "open", full)
        with pytest.raises(OSError, match="No space left"):
            summaries.flush()
    summaries.close()
    write(tmp_path, 10, [20]).close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]


def test_without_tensorflow_the_figures_are_kept_and_it_is_said(tmp_path, without, capsys):
    without("tensorflow")
    write(tmp_path, 0, [10]).close()
    assert lines(tmp_path) == [{"step": 10, "train/loss": 1.0}]
    assert "TensorBoard is off" in capsys.readouterr().out
    assert not list(tmp_path.glob("events*"))


def test_in_a_bucket_the_whole_file_is_written_each_time(bucket, without):
    without("clu")  # TensorBoard's writer would look for a real one.
    summaries = MetricsWriter(epath.Path("gs://bucket/run"), 0, ProgressLine())
    (bucket / "run").mkdir()
    for step in (10, 20):
        summaries.scalars(step, {"train/loss": step / 10})
        summaries.flush()
    resumed = MetricsWriter(epath.Path("gs://bucket/run"), 10, ProgressLine())
    resumed.scalars(20, {"train/loss": 5.0})
    resumed.close()
    assert lines(bucket / "run") == [{"step": 10, "train/loss": 1.0}, {"step": 20, "train/loss": 5.0}]
