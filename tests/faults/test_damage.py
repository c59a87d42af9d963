"""Damaged checkpoints, as a disk or a network may leave them."""

import shutil

import pytest

from tests.end_to_end.program import SHORT_DIGITS, run
from tests.faults.run_comparison import assert_equal_runs, saved_steps


@pytest.fixture
def workdir(tmp_path, finished_run):
    """A run directory with checkpoints of the last two epochs, and without the file that marks the run as finished."""
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    (workdir / "result.json").unlink()
    assert saved_steps(workdir)[-2:] == [24, 32]
    return workdir


def damage(checkpoint, how):
    """Damage the largest file of the parameters."""
    path = max((checkpoint / "params").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_damaged_checkpoint_is_set_aside_and_the_previous_one_is_restored(workdir, finished_run, how):
    damage(workdir / "checkpoints" / "32", how)
    resumed = run(*SHORT_DIGITS, f"--workdir={workdir}")
    assert resumed.returncode == 0, resumed.stderr
    assert "Checkpoint 32 is damaged (" in resumed.stdout
    assert "Resuming from step 24 of 32" in resumed.stdout
    assert (workdir / "damaged" / "32" / "params").exists()
    assert_equal_runs(workdir, finished_run)


@pytest.mark.slow
def test_run_without_an_intact_checkpoint_fails_and_keeps_all_checkpoints(workdir):
    steps = saved_steps(workdir)
    for step in steps:
        damage(workdir / "checkpoints" / str(step), "flipped")
    resumed = run(*SHORT_DIGITS, f"--workdir={workdir}")
    assert resumed.returncode == 2
    assert "checkpoint 32 cannot be read" in resumed.stderr
    assert len(resumed.stderr.splitlines()) == 1
    assert saved_steps(workdir) == steps
