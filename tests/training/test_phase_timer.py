import pytest

from resnet_jax.training import phase_timer
from resnet_jax.training.phase_timer import PhaseTimer


@pytest.fixture
def wait(monkeypatch):
    """A function that lets seconds pass, in place of the real time."""
    now = [100.0]
    monkeypatch.setattr(phase_timer.time, "monotonic", lambda: now[0])

    def passing(seconds):
        now[0] += seconds

    return passing


def test_what_is_not_spent_on_anything_else_is_training(wait):
    counted = PhaseTimer({})
    with counted.spending("compilation"):
        wait(30)
    wait(5)
    counted.start()  # What was before is start-up.
    wait(2)
    with counted.spending("input"):
        wait(1)
    with counted.spending("evaluation"):
        wait(4)
    with counted.spending("saving"):
        wait(0.5)
    wait(3)
    assert counted.spent() == {"training": 5, "input": 1, "evaluation": 4, "saving": 0.5, "compilation": 30}
    assert counted.seconds() == 10.5


def test_a_process_goes_on_from_what_those_before_it_spent(wait):
    first = PhaseTimer({})
    wait(2)
    with first.spending("input"):
        wait(1)
    second = PhaseTimer(first.spent())
    with second.spending("compilation"):
        wait(30)
    second.start()
    wait(4)
    assert second.spent() == {"training": 6, "input": 1, "evaluation": 0, "saving": 0, "compilation": 30}
    assert second.seconds() == 7


def test_what_ends_in_an_error_is_counted(wait):
    counted = PhaseTimer({})
    with pytest.raises(KeyboardInterrupt), counted.spending("evaluation"):
        wait(4)
        raise KeyboardInterrupt
    assert counted.spent()["evaluation"] == 4
