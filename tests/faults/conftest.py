import pytest

from tests.conftest import train_once
from tests.end_to_end.program import WITH_TENSORFLOW, run
from tests.faults.run_comparison import LONG_DIGITS


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The directory of an uninterrupted run of `LONG_DIGITS`, with TensorBoard."""

    def train(workdir):
        finished = run(*LONG_DIGITS, f"--workdir={workdir}", **WITH_TENSORFLOW)
        assert finished.returncode == 0, finished.stderr

    return train_once(tmp_path_factory, "uninterrupted", train)
