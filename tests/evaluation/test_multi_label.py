import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn import metrics as reference

from resnet_jax.errors import UserError
from resnet_jax.evaluation import multi_label
from resnet_jax.evaluation.multi_label import MultiLabelExamples

CLASSES = ("a", "b", "c", "d")
GENERATOR = np.random.default_rng(0)
LABEL_SETS = np.array([[0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0]], bool)
LABELS = GENERATOR.integers(0, 5, 200)
TARGETS = LABEL_SETS[LABELS]
LOGITS = (2 * TARGETS - 1 + 2 * GENERATOR.normal(size=TARGETS.shape)).astype(np.float32)


def examples():
    arrays = (jnp.asarray(LOGITS), jnp.asarray(LABEL_SETS), jnp.asarray(LABELS), jnp.arange(200))
    return MultiLabelExamples(*map(np.asarray, multi_label.example_metrics(*arrays)))


def test_loss_is_the_mean_binary_cross_entropy():
    probabilities = special.expit(LOGITS.astype(np.float64))
    losses = -(TARGETS * np.log(probabilities) + (1 - TARGETS) * np.log(1 - probabilities)).mean(-1)
    np.testing.assert_allclose(examples().loss, losses, rtol=1e-5)
    np.testing.assert_allclose(examples().probabilities, probabilities, rtol=1e-5)


def test_report_agrees_with_scikit_learn():
    """Class d has no examples, and does not count in the means."""
    report = multi_label.report(examples(), LABEL_SETS, CLASSES, 203, thresholds=(0.4, 0.5, 0.6, 0.5))
    probabilities = special.expit(LOGITS)
    predicted = probabilities >= [0.4, 0.5, 0.6, 0.5]
    present = slice(0, 3)
    expected_ap = reference.average_precision_score(TARGETS[:, present], probabilities[:, present], average=None)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(TARGETS[:, present], predicted[:, present])
    for number, metrics in enumerate(report.classes[present]):
        assert metrics.average_precision == pytest.approx(expected_ap[number])
        assert (metrics.precision, metrics.recall, metrics.f1) == pytest.approx(
            (precision[number], recall[number], f1[number])
        )
    assert report.means.map == pytest.approx(expected_ap.mean())
    assert report.means.f1 == pytest.approx(f1.mean())
    assert report.micro_f1 == pytest.approx(reference.f1_score(TARGETS, predicted, average="micro", zero_division=0))
    assert (report.means.examples, report.means.unreadable) == (200, 3)
    assert (report.classes[3].examples, report.classes[3].average_precision, report.classes[3].recall) == (
        0,
        None,
        None,
    )


def test_diverged_model_has_no_average_precision():
    diverged = examples()._replace(probabilities=np.full(TARGETS.shape, np.nan, np.float32))
    assert np.isnan(multi_label.report(diverged, LABEL_SETS, CLASSES, 200).means.map)


def test_average_precision_is_the_area_under_the_curve_of_precision_over_recall():
    """The sum of the precision at each example of the class, ranked by probability, over their number."""
    report = multi_label.report(examples(), LABEL_SETS, CLASSES, 200)
    for number in range(3):
        ranked = TARGETS[np.argsort(-LOGITS[:, number]), number]
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        assert report.classes[number].average_precision == pytest.approx(precision[ranked].mean())


def test_top1_counts_examples_whose_most_probable_class_is_one_of_their_labels():
    report = multi_label.report(examples(), LABEL_SETS, CLASSES, 200)
    expected = np.mean([TARGETS[index, LOGITS[index].argmax()] for index in range(200)])
    assert report.means.top1 == pytest.approx(expected)


def test_chosen_thresholds_have_the_highest_f1():
    thresholds = multi_label.choose_thresholds(examples(), LABEL_SETS)
    probabilities = examples().probabilities
    for number in range(3):
        scores = {
            candidate: reference.f1_score(TARGETS[:, number], probabilities[:, number] >= candidate)
            for candidate in probabilities[:, number]
        }
        chosen = reference.f1_score(TARGETS[:, number], probabilities[:, number] >= thresholds[number])
        assert chosen == pytest.approx(max(scores.values()))
    assert thresholds[3] == 0.5  # No example has this class.


def test_no_readable_example_is_an_error():
    empty = MultiLabelExamples(np.array([]), np.array([], int), np.array([]), np.zeros((0, 4)))
    with pytest.raises(UserError, match="none of the 5 examples could be read"):
        multi_label.report(empty, LABEL_SETS, CLASSES, 5)
