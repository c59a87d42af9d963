import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import config as settings
from resnet_jax.terminal import Reporter
from resnet_jax.training import metrics_logger
from resnet_jax.training.phase_timer import PhaseTimer


class Records:
    """Stands in for `MetricsWriter`."""

    def __init__(self):
        self.written = []

    def scalars(self, step, values):
        self.written.append((step, values))

    def write_if_due(self):
        pass

    write = write_if_due


def make_logger(log_every_steps=4, **resumed):
    config = settings.default()
    config.log_every_steps = log_every_steps
    records = Records()
    arguments = (config, ("a", "b"), 100, records, Reporter(), PhaseTimer({}))
    return metrics_logger.MetricsLogger(*arguments, **resumed), records


def metrics(*losses, gradient_norm=1.0):
    losses = jnp.array(losses, jnp.float32)
    return {
        "loss": losses,
        "top1": jnp.zeros_like(losses),
        "learning_rate": losses / 10,
        "gradient_norm": jnp.full_like(losses, gradient_norm),
    }


def test_report_holds_means_and_is_made_four_calls_after_it_is_due(monkeypatch):
    """A report is due after step 4. The metrics of the four calls after it stay on the device."""
    fetches = []
    monkeypatch.setattr(metrics_logger, "fetch", lambda tree: fetches.append(len(tree)) or [
        {name: np.asarray(value) for name, value in metrics.items()} for metrics in tree
    ])  # fmt: skip
    logger, records = make_logger()
    for loss in (1.0, 2.0, 3.0, 6.0, 99.0, 99.0, 99.0):
        logger.record(metrics(loss), 1)
    assert not fetches
    logger.record(metrics(99.0), 1)
    assert fetches == [4]
    ((step, values),) = records.written
    assert step == 4
    assert values["train/loss"] == 3.0
    assert values["train/learning_rate"] == pytest.approx(0.6)  # The latest, not a mean.
    assert values["train/images_per_second"] > 0


def test_images_per_second_count_steps_seen_to_be_finished(monkeypatch):
    """Each step takes ten seconds, but the host notices finished steps only at every third call."""
    logger, records = make_logger()
    finished = 0
    monkeypatch.setattr(metrics_logger._Call, "is_finished", lambda call: call.end <= finished)
    for taken in range(21):
        if taken % 3 == 0:
            finished = taken - 1
            monkeypatch.setattr(metrics_logger.time, "monotonic", lambda now=10.0 * taken: now)
        if taken == 0:
            logger.start_timer()
        logger.record(metrics(1.0), 1)
    assert [step for step, _ in records.written] == [4, 8, 12, 16]
    first, *others = [values["train/images_per_second"] for _, values in records.written]
    assert first == settings.default().batch_size * 5 / 60
    assert others == [settings.default().batch_size / 10] * 3


def test_reports_on_steps_finished_together_have_the_same_speed(monkeypatch):
    logger, records = make_logger(log_every_steps=1)
    monkeypatch.setattr(metrics_logger.time, "monotonic", lambda: 0.0)
    logger.start_timer()
    monkeypatch.setattr(metrics_logger.time, "monotonic", lambda: 10.0)
    monkeypatch.setattr(metrics_logger._Call, "is_finished", lambda call: call.end <= 3)
    for _ in range(7):
        logger.record(metrics(1.0), 1)
    speeds = [values["train/images_per_second"] for _, values in records.written]
    assert speeds == [3 * settings.default().batch_size / 10] * 3


def test_images_per_second_exclude_evaluation_and_saving(monkeypatch):
    logger, records = make_logger(log_every_steps=2)
    monkeypatch.setattr(metrics_logger.time, "monotonic", lambda: 0.0)
    logger.start_timer()
    logger.record(metrics(1.0), 1)
    monkeypatch.setattr(metrics_logger.time, "monotonic", lambda: 10.0)
    logger.collect()
    with logger.excluded_from_throughput("evaluation"):
        monkeypatch.setattr(metrics_logger.time, "monotonic", lambda: 500.0)
    logger.record(metrics(1.0), 1)
    monkeypatch.setattr(metrics_logger.time, "monotonic", lambda: 510.0)
    logger.collect()
    ((_, values),) = records.written
    assert values["train/images_per_second"] == 2 * settings.default().batch_size / 20


def test_call_of_several_steps_reports_when_it_passes_a_multiple():
    logger, records = make_logger()
    for start in range(0, 21, 3):
        logger.record(metrics(*range(start, start + 3)), 3)
    assert [(step, values["train/loss"]) for step, values in records.written] == [(6, 2.5), (9, 7.0)]


def test_collect_reports_each_step_once():
    """The report of step 4 is due when everything is fetched after step 5; later steps belong to the next report."""
    logger, records = make_logger()
    for loss in (1.0, 2.0, 3.0, 6.0, 10.0):
        logger.record(metrics(loss), 1)
    logger.collect()
    assert [(step, values["train/loss"]) for step, values in records.written] == [(4, 3.0)]
    for loss in (20.0, 30.0, 40.0, 99.0, 99.0, 99.0, 99.0):
        logger.record(metrics(loss), 1)
    assert [(step, values["train/loss"]) for step, values in records.written] == [(4, 3.0), (8, 25.0)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_loss_is_raised_with_its_step(value):
    logger, _ = make_logger()
    logger.record(metrics(1.0, 1.0, value), 3)
    for _ in range(4):
        logger.record(metrics(1.0), 1)
    with pytest.raises(
        metrics_logger.NonFiniteMetric, match=r"loss became (nan|inf) at step 2 \(steps 0 to 3 were checked\)"
    ):
        logger.record(metrics(1.0), 1)


def test_non_finite_gradient_norm_is_raised():
    """Such a step makes the parameters unusable although its loss is still finite."""
    logger, _ = make_logger()
    logger.record(metrics(1.0, gradient_norm=float("nan")), 1)
    with pytest.raises(metrics_logger.NonFiniteMetric, match="gradient norm became nan at step 0"):
        logger.collect()


def test_non_finite_error_names_the_earliest_step():
    """The gradient norm comes first: the loss of the next step is only its consequence."""
    logger, _ = make_logger()
    logger.record(metrics(1.0), 1)
    logger.record(metrics(1.0, gradient_norm=float("inf")), 1)
    logger.record(metrics(float("nan"), gradient_norm=float("nan")), 1)
    with pytest.raises(metrics_logger.NonFiniteMetric, match="gradient norm became inf at step 1") as raised:
        logger.collect()
    assert raised.value.step == 1


def test_resumed_logger_reports_as_an_uninterrupted_one():
    straight, expected = make_logger()
    for loss in (1.5, 2.5, 3.5, 7.5):
        straight.record(metrics(loss), 1)
    straight.collect()
    first, _ = make_logger()
    first.record(metrics(1.5), 1)
    first.record(metrics(2.5), 1)
    first.collect()
    saved = first.state_to_save()
    first.record(metrics(99.0), 1)  # After the checkpoint, which is written in the background meanwhile.
    first.collect()
    second, records = make_logger(step=2, saved=saved)
    second.record(metrics(3.5), 1)
    second.record(metrics(7.5), 1)
    second.collect()
    ((step, values),), ((expected_step, expected_values),) = records.written, expected.written
    timed = {"train/images_per_second"}
    assert step == expected_step
    assert {key: values[key] for key in values.keys() - timed} == {
        key: expected_values[key] for key in expected_values.keys() - timed
    }


def test_parameter_table_lists_layers_in_forward_order():
    names = ["head", "final_norm", "stage1_block10", "stage1_block2", "stage2_block1", "stem_conv", "stem_norm"]
    table = metrics_logger.parameter_table({name: {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)} for name in names})
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == [
        "stem_conv",
        "stem_norm",
        "stage1, 2 blocks",
        "stage2, 1 block",
        "final_norm",
        "head",
        "total",
    ]
    assert [row[1:] for row in rows[1:3]] == [["2", "9"], ["4", "18"]]
    assert rows[-1][1:] == ["14", "63"]


def test_conclusion_holds_metrics_checkpoint_and_directory():
    scores = {"loss": 0.25, "top1": 0.9, "top5": 1.0, "examples": 1234}
    result = {"checkpoint_step": 400, "validation": scores, "test": None, "seconds": 61.0}
    assert metrics_logger.conclusion(result, "/runs/a").splitlines() == [
        "split       loss     top-1    top-5  examples",
        "----------  ------  ------  -------  --------",
        "validation  0.2500  90.00%  100.00%     1,234",
        "",
        "Checkpoint of step 400, the best on validation. 1 min 01 s of training. /runs/a",
    ]


def test_conclusion_without_checkpoint_says_so():
    result = {"checkpoint_step": None, "validation": None, "test": None, "seconds": 1.0}
    assert metrics_logger.conclusion(result, "/runs/a") == "No checkpoint yet. 1.0 s of training. /runs/a"
