"""Exact comparison of an interrupted run with an uninterrupted one."""

import json
import pathlib
import time

import jax
import numpy as np
import pytest

from resnet_jax.training.metrics_writer import EVENT_FILES
from resnet_jax.workdir.workdir import WorkDir
from tests.end_to_end.program import SHORT_DIGITS

# A run long enough to be interrupted before it ends: 10 epochs of eight steps each.
LONG_DIGITS = (*SHORT_DIGITS, "--config.num_epochs=10")


def wait_for(condition, process, seconds=300):
    """Wait until the condition holds, and check that the process does not end first."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Return the steps of complete checkpoints."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def last_state(workdir: pathlib.Path) -> tuple[int, dict]:
    """Return the step and all arrays of the last checkpoint, read without the code that wrote it."""
    import orbax.checkpoint as ocp

    step = saved_steps(workdir)[-1]
    folder = workdir / "checkpoints" / str(step)
    items = [item for item in ("params", "batch_stats", "opt_state", "ema") if (folder / item).exists()]
    with ocp.StandardCheckpointer() as checkpointer:
        return step, {item: checkpointer.restore(folder / item) for item in items}


def untimed_records(workdir: pathlib.Path) -> list[dict]:
    """Return the lines of metrics.jsonl without the throughput, which differs between equal runs."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "train/images_per_second"} for line in lines]


def events(workdir: pathlib.Path) -> list[tuple[int, str]]:
    """Return step and name of every value that TensorBoard would show, including duplicates."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    return sorted(
        (event.step, value.tag)
        for path in workdir.glob(EVENT_FILES)
        for event in loader.LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
    )


def assert_equal_runs(workdir: pathlib.Path, uninterrupted: pathlib.Path, with_events: bool = False) -> None:
    """Check that both runs have the same last checkpoint, metrics, test result and chosen checkpoint.

    With `with_events`, also check that TensorBoard would show values of the same names at the same steps.
    """
    step, state = last_state(workdir)
    expected_step, expected = last_state(uninterrupted)
    assert step == expected_step
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for (path, leaf), expected_leaf in zip(leaves, jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(leaf, expected_leaf, err_msg=jax.tree_util.keystr(path))
    assert untimed_records(workdir) == untimed_records(uninterrupted)
    if with_events:
        assert events(workdir) == events(uninterrupted) != []
    results = [WorkDir(str(path)).result() for path in (workdir, uninterrupted)]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["checkpoint_step"] == results[1]["checkpoint_step"]
