"""Runs that are killed or stopped, and go on as if nothing had happened."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from resnet_jax.workdir import WorkDir
from tests.end_to_end.program import SHORT_DIGITS, run, start


def wait_for(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def last_state(workdir):
    """Every array of the last checkpoint, read without the code that wrote it."""
    import orbax.checkpoint as ocp

    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    items = [
        item
        for item in ("params", "batch_stats", "opt_state", "ema")
        if (workdir / "checkpoints" / str(step) / item).exists()
    ]
    with ocp.StandardCheckpointer() as checkpointer:
        return step, {
            item: checkpointer.restore(workdir / "checkpoints" / str(step) / item) for item in items
        }  # fmt: skip


def untimed_records(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "train/images_per_second"} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    finished = run(*SHORT_DIGITS, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    return workdir


def assert_equal_runs(workdir, uninterrupted):
    step, state = last_state(workdir)
    expected_step, expected = last_state(uninterrupted)
    assert step == expected_step
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(expected), strict=True
    ):  # fmt: skip
        np.testing.assert_array_equal(one, other, err_msg=jax.tree_util.keystr(path))
    assert untimed_records(workdir) == untimed_records(uninterrupted)
    results = [WorkDir(str(path)).result() for path in (workdir, uninterrupted)]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["checkpoint_step"] == results[1]["checkpoint_step"]


def test_a_killed_run_goes_on_to_the_same_parameters_bit_for_bit(tmp_path, uninterrupted):
    workdir = tmp_path / "killed"
    process = start(*SHORT_DIGITS, f"--workdir={workdir}")
    wait_for(lambda: (workdir / "checkpoints" / "16").exists(), process)  # Of 32 steps.
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (workdir / "result.json").exists()
    resumed = run(*SHORT_DIGITS, f"--workdir={workdir}")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from step " in resumed.stdout
    assert_equal_runs(workdir, uninterrupted)


def test_ctrl_c_saves_sums_up_and_goes_on_to_the_same_parameters(tmp_path, uninterrupted):
    workdir = tmp_path / "stopped"
    process = start(*SHORT_DIGITS, f"--workdir={workdir}")
    wait_for(lambda: (workdir / "metrics.jsonl").exists(), process)  # The first report.
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "Stopping, once everything is saved" in stdout
    assert "Checkpoint of step" in stdout
    assert str(workdir) in stdout
    assert not (workdir / "result.json").exists()
    resumed = run(*SHORT_DIGITS, f"--workdir={workdir}")
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_runs(workdir, uninterrupted)


def test_evaluate_prints_the_figures_of_the_training(uninterrupted):
    result = WorkDir(str(uninterrupted)).result()
    evaluated = run("evaluate", f"--workdir={uninterrupted}", "--format=json")
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout.splitlines()[-1])
    assert {key: scores[key] for key in ("loss", "top1", "top5", "examples", "unreadable")} == result["test"]
    assert scores["checkpoint_step"] == result["checkpoint_step"]
    table = run("evaluate", f"--workdir={uninterrupted}")
    assert f"{result['test']['top1']:.2%}" in table.stdout


def test_a_finished_run_prints_its_result_again(uninterrupted):
    again = run(*SHORT_DIGITS, f"--workdir={uninterrupted}")
    assert again.returncode == 0
    assert "This run is finished." in again.stdout
    assert f"{WorkDir(str(uninterrupted)).result()['test']['top1']:.2%}" in again.stdout
