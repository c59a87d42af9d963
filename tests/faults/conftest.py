import pytest

from tests.end_to_end.program import WITH_TENSORFLOW, run
from tests.faults.run_comparison import LONG_DIGITS


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The directory of an uninterrupted run of `LONG_DIGITS`, with TensorBoard."""
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    finished = run(*LONG_DIGITS, f"--workdir={workdir}", **WITH_TENSORFLOW)
    assert finished.returncode == 0, finished.stderr
    return workdir
