import pytest

from tests.end_to_end.program import LONGER_DIGITS, run


@pytest.fixture(scope="session")
def uninterrupted(finished_run):
    """A run of `SHORT_DIGITS` that nothing has happened to."""
    return finished_run


@pytest.fixture(scope="session")
def longer(tmp_path_factory):
    """A run of `LONGER_DIGITS` that nothing has happened to."""
    workdir = tmp_path_factory.mktemp("runs") / "longer"
    finished = run(*LONGER_DIGITS, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    return workdir
