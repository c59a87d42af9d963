"""Train steps that do not fit into memory."""

import pytest

from tests.end_to_end.program import run

# About two terabytes of activations.
HUGE = ("--config=configs/digits.py", "--config.dataset.image_size=1024", "--config.batch_size=1024")


@pytest.mark.slow
def test_step_that_does_not_fit_into_memory_is_refused_before_it_runs(tmp_path):
    finished = run(*HUGE, f"--workdir={tmp_path / 'run'}")
    assert finished.returncode == 2, finished.stderr
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert "GB are free. Try --config.batch_size=" in finished.stderr
    assert not (tmp_path / "run" / "config.json").exists()
