import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import config as settings
from resnet_jax.terminal import ProgressLine
from resnet_jax.training import metrics_logger as monitors
from resnet_jax.training.phase_timer import PhaseTimer


class Records:
    """Stands in for `MetricsWriter`."""

    def __init__(self):
        self.written = []

    def scalars(self, step, values):
        self.written.append((step, values))

    def show(self):
        pass

    write = show


def make_monitor(log_every_steps=4):
    config = settings.default()
    config.log_every_steps = log_every_steps
    records = Records()
    return monitors.MetricsLogger(config, ("a", "b"), 100, records, ProgressLine(), PhaseTimer({})), records


def metrics(*losses, gradient_norm=1.0):
    losses = jnp.array(losses, jnp.float32)
    return {
        "loss": losses,
        "top1": jnp.zeros_like(losses),
        "learning_rate": losses / 10,
        "gradient_norm": jnp.full_like(losses, gradient_norm),
    }


def test_reports_means_and_fetches_nothing_in_between(monkeypatch):
    """What is fetched are calls that are done: those after them are left to be computed."""
    fetches = []
    monkeypatch.setattr(monitors, "fetch", lambda tree: fetches.append(len(tree)) or [
        {name: np.asarray(value) for name, value in part.items()} for part in tree
    ])  # fmt: skip
    monitor, records = make_monitor()
    for loss in (1.0, 2.0, 3.0, 6.0, 99.0, 99.0, 99.0):
        monitor.record(metrics(loss), 1)
    assert not fetches
    monitor.record(metrics(99.0), 1)
    assert fetches == [4]
    ((step, values),) = records.written
    assert step == 4
    assert values["train/loss"] == 3.0
    assert values["train/learning_rate"] == pytest.approx(0.6)  # The latest, not a mean.
    assert values["train/images_per_second"] > 0


def test_images_per_second_are_of_the_steps_that_were_seen_to_be_finished(monkeypatch):
    """Ten seconds each, here seen three at a time; that reports are of others makes no difference."""
    monitor, records = make_monitor()
    finished = 0
    monkeypatch.setattr(monitors._Call, "is_finished", lambda call: call.end <= finished)
    for taken in range(21):
        if taken % 3 == 0:
            finished = taken - 1
            monkeypatch.setattr(monitors.time, "monotonic", lambda now=10.0 * taken: now)
        if taken == 0:
            monitor.start_clock()
        monitor.record(metrics(1.0), 1)
    assert [step for step, _ in records.written] == [4, 8, 12, 16]
    first, *others = [values["train/images_per_second"] for _, values in records.written]
    assert first == settings.default().batch_size * 5 / 60
    assert others == [settings.default().batch_size / 10] * 3


def test_reports_on_steps_that_were_finished_together_tell_the_same_speed(monkeypatch):
    monitor, records = make_monitor(log_every_steps=1)
    monkeypatch.setattr(monitors.time, "monotonic", lambda: 0.0)
    monitor.start_clock()
    monkeypatch.setattr(monitors.time, "monotonic", lambda: 10.0)
    monkeypatch.setattr(monitors._Call, "is_finished", lambda call: call.end <= 3)
    for _ in range(7):
        monitor.record(metrics(1.0), 1)
    speeds = [values["train/images_per_second"] for _, values in records.written]
    assert speeds == [3 * settings.default().batch_size / 10] * 3


def test_evaluation_and_saving_do_not_count(monkeypatch):
    monitor, records = make_monitor(log_every_steps=2)
    monkeypatch.setattr(monitors.time, "monotonic", lambda: 0.0)
    monitor.start_clock()
    monitor.record(metrics(1.0), 1)
    monkeypatch.setattr(monitors.time, "monotonic", lambda: 10.0)
    monitor.collect()
    with monitor.paused("evaluation"):
        monkeypatch.setattr(monitors.time, "monotonic", lambda: 500.0)
    monitor.record(metrics(1.0), 1)
    monkeypatch.setattr(monitors.time, "monotonic", lambda: 510.0)
    monitor.collect()
    ((_, values),) = records.written
    assert values["train/images_per_second"] == 2 * settings.default().batch_size / 20


def test_a_call_of_several_steps_reports_when_it_passes_a_multiple():
    monitor, records = make_monitor()
    for start in range(0, 21, 3):
        monitor.record(metrics(*range(start, start + 3)), 3)
    assert [(step, values["train/loss"]) for step, values in records.written] == [(6, 2.5), (9, 7.0)]


def test_what_is_collected_is_reported_too_and_once():
    """Step 4 is due when all is fetched after step 5; what comes after belongs to the next report."""
    monitor, records = make_monitor()
    for loss in (1.0, 2.0, 3.0, 6.0, 10.0):
        monitor.record(metrics(loss), 1)
    monitor.collect()
    assert [(step, values["train/loss"]) for step, values in records.written] == [(4, 3.0)]
    for loss in (20.0, 30.0, 40.0, 99.0, 99.0, 99.0, 99.0):
        monitor.record(metrics(loss), 1)
    assert [(step, values["train/loss"]) for step, values in records.written] == [(4, 3.0), (8, 25.0)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(value):
    monitor, _ = make_monitor()
    monitor.record(metrics(1.0, 1.0, value), 3)
    for _ in range(4):
        monitor.record(metrics(1.0), 1)
    with pytest.raises(monitors.NotFinite, match=r"loss became (nan|inf) at step 2 \(steps 0 to 3 were looked at\)"):
        monitor.record(metrics(1.0), 1)


def test_so_does_a_gradient_that_is_not_finite():
    """The parameters are spoilt by it even though the loss was finite still."""
    monitor, _ = make_monitor()
    monitor.record(metrics(1.0, gradient_norm=float("nan")), 1)
    with pytest.raises(monitors.NotFinite, match="gradient norm became nan at step 0"):
        monitor.collect()


def test_the_step_that_is_named_is_the_first_of_both():
    """The gradient's: the loss of the step after it only shows what that has done."""
    monitor, _ = make_monitor()
    monitor.record(metrics(1.0), 1)
    monitor.record(metrics(1.0, gradient_norm=float("inf")), 1)
    monitor.record(metrics(float("nan"), gradient_norm=float("nan")), 1)
    with pytest.raises(monitors.NotFinite, match="gradient norm became inf at step 1") as raised:
        monitor.collect()
    assert raised.value.step == 1


def test_a_resumed_monitor_reports_what_an_uninterrupted_one_does():
    straight, expected = make_monitor()
    for loss in (1.5, 2.5, 3.5, 7.5):
        straight.record(metrics(loss), 1)
    straight.collect()
    first, _ = make_monitor()
    first.record(metrics(1.5), 1)
    first.record(metrics(2.5), 1)
    first.collect()
    saved = first.saved()
    first.record(metrics(99.0), 1)  # After the checkpoint, which is written in the background meanwhile.
    first.collect()
    second, records = make_monitor()
    second.resume(2, saved)
    second.record(metrics(3.5), 1)
    second.record(metrics(7.5), 1)
    second.collect()
    ((step, values),), ((expected_step, expected_values),) = records.written, expected.written
    timed = {"train/images_per_second"}
    assert step == expected_step
    assert {key: values[key] for key in values.keys() - timed} == {
        key: expected_values[key] for key in expected_values.keys() - timed
    }
