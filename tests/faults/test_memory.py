"""Steps that a machine has no memory for."""

import pytest

from tests.end_to_end.program import run

# About two terabytes of activations.
HUGE = ("--config=configs/digits.py", "--config.dataset.image_size=1024", "--config.batch_size=1024")


@pytest.mark.slow
def test_a_step_that_would_not_fit_is_refused_before_it_is_taken(tmp_path):
    finished = run(*HUGE, f"--workdir={tmp_path / 'run'}")
    assert finished.returncode == 2, finished.stderr
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert "GB are free. Try --config.batch_size=" in finished.stderr
    assert not (tmp_path / "run" / "config.json").exists()
