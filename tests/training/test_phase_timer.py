import pytest

from resnet_jax.training import phase_timer
from resnet_jax.training.phase_timer import PhaseTimer


@pytest.fixture
def advance(monkeypatch):
    """Return a function that advances a simulated clock by some seconds."""
    now = [100.0]
    monkeypatch.setattr(phase_timer.time, "monotonic", lambda: now[0])

    def advance_by(seconds):
        now[0] += seconds

    return advance_by


def test_training_is_the_time_that_no_other_phase_takes(advance):
    timer = PhaseTimer({})
    with timer.measure("compilation"):
        advance(30)
    advance(5)
    timer.start()  # The time before is start-up.
    advance(2)
    with timer.measure("input"):
        advance(1)
    with timer.measure("evaluation"):
        advance(4)
    with timer.measure("saving"):
        advance(0.5)
    advance(3)
    assert timer.seconds_by_phase() == {"training": 5, "input": 1, "evaluation": 4, "saving": 0.5, "compilation": 30}
    assert timer.seconds_without_compilation() == 10.5


def test_resumed_process_continues_from_the_saved_seconds(advance):
    first = PhaseTimer({})
    advance(2)
    with first.measure("input"):
        advance(1)
    second = PhaseTimer(first.seconds_by_phase())
    with second.measure("compilation"):
        advance(30)
    second.start()
    advance(4)
    assert second.seconds_by_phase() == {"training": 6, "input": 1, "evaluation": 0, "saving": 0, "compilation": 30}
    assert second.seconds_without_compilation() == 7


def test_phase_that_ends_in_an_exception_is_counted(advance):
    timer = PhaseTimer({})
    with pytest.raises(KeyboardInterrupt), timer.measure("evaluation"):
        advance(4)
        raise KeyboardInterrupt
    assert timer.seconds_by_phase()["evaluation"] == 4
