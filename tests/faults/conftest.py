import pytest

from tests.end_to_end.program import LONGER_DIGITS, SHORT_DIGITS, run


def finished(place, recipe):
    ended = run(*recipe, f"--workdir={place}")
    assert ended.returncode == 0, ended.stderr
    return place


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """A run of `SHORT_DIGITS` that nothing has happened to."""
    return finished(tmp_path_factory.mktemp("runs") / "short", SHORT_DIGITS)


@pytest.fixture(scope="session")
def longer(tmp_path_factory):
    """A run of `LONGER_DIGITS` that nothing has happened to."""
    return finished(tmp_path_factory.mktemp("runs") / "longer", LONGER_DIGITS)
