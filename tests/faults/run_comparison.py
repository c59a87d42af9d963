"""Whether an interrupted run has become what an uninterrupted one is, to the last bit and line."""

import json
import pathlib
import time

import jax
import numpy as np
import pytest

from resnet_jax.training.metrics_writer import EVENT_FILES
from resnet_jax.workdir.workdir import WorkDir
from tests.end_to_end.program import SHORT_DIGITS

# Epochs of eight steps, enough of them for a run to be interrupted before it ends.
LONG_DIGITS = (*SHORT_DIGITS, "--config.num_epochs=16")


def wait_for(condition, process, seconds=300):
    """Returns when the condition holds; the process must not end before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """The steps of complete checkpoints."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def last_state(workdir: pathlib.Path) -> tuple[int, dict]:
    """Every array of the last checkpoint, read without the code that wrote it."""
    import orbax.checkpoint as ocp

    step = saved_steps(workdir)[-1]
    place = workdir / "checkpoints" / str(step)
    items = [item for item in ("params", "batch_stats", "opt_state", "ema") if (place / item).exists()]
    with ocp.StandardCheckpointer() as checkpointer:
        return step, {item: checkpointer.restore(place / item) for item in items}


def untimed_records(workdir: pathlib.Path) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "train/images_per_second"} for line in lines]


def events(workdir: pathlib.Path) -> list[tuple[int, str]]:
    """Step and name of all that TensorBoard would show, as often as it is there."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    return sorted(
        (event.step, value.tag)
        for path in workdir.glob(EVENT_FILES)
        for event in loader.LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
    )


def assert_equal_runs(workdir: pathlib.Path, uninterrupted: pathlib.Path, with_events: bool = True) -> None:
    """Parameters and all else of the last checkpoint, metrics, test figures, and what TensorBoard would show."""
    step, state = last_state(workdir)
    expected_step, expected = last_state(uninterrupted)
    assert step == expected_step
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=jax.tree_util.keystr(path))
    assert untimed_records(workdir) == untimed_records(uninterrupted)
    assert not with_events or events(workdir) == events(uninterrupted) != []
    results = [WorkDir(str(path)).result() for path in (workdir, uninterrupted)]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["checkpoint_step"] == results[1]["checkpoint_step"]
