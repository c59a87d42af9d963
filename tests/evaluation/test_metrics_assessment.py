import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as scikit_learns_confusion_matrix
from sklearn.metrics import precision_recall_fscore_support

from resnet_jax.errors import UserError
from resnet_jax.evaluation import metrics
from resnet_jax.evaluation.metrics import assess, confusion_matrix, reliability, wilson
from resnet_jax.runtime import parallel

CLASSES = [f"class {number}" for number in range(12)]


@pytest.fixture(scope="module")
def logits_and_labels():
    """A network that is right about half the time, and never says the last class, which no example has."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 11, 1000).astype(np.int32)
    logits = generator.normal(size=(1000, 12)).astype(np.float32)
    logits[np.arange(1000), labels] += 2
    logits[:, 11] = -10
    return logits, labels


@pytest.fixture(scope="module")
def outcomes(logits_and_labels):
    logits, labels = map(jnp.asarray, logits_and_labels)
    return parallel.fetch(metrics.outcomes(logits, labels, jnp.arange(1000)))


@pytest.fixture(scope="module")
def assessment(outcomes):
    return assess(outcomes, CLASSES, 1000)


# As published by Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
@pytest.mark.parametrize(
    ("successes", "trials", "published"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilsons_interval_is_the_published_one(successes, trials, published):
    assert wilson(successes, trials) == pytest.approx(published, abs=5e-5)


def test_the_intervals_are_those_of_the_counts(assessment, outcomes):
    right = int((outcomes.prediction == outcomes.label).sum())
    assert assessment.top1_interval == wilson(right, 1000)
    assert assessment.top5_interval == wilson(int(outcomes.in_top5.sum()), 1000)
    assert assessment.top1_interval[0] < assessment.scores.top1 < assessment.top1_interval[1]


def test_figures_of_classes_equal_scikit_learns(assessment, outcomes):
    expected = precision_recall_fscore_support(outcomes.label, outcomes.prediction, labels=range(11))
    found = [(each.precision, each.recall, each.f1, each.examples) for each in assessment.classes[:11]]
    np.testing.assert_allclose(np.array(found).T, np.array(expected), rtol=1e-12)
    assert [each.name for each in assessment.classes] == CLASSES


def test_a_class_that_is_not_there_has_no_shares(assessment):
    last = assessment.classes[-1]
    assert (last.examples, last.predicted, last.precision, last.recall, last.f1) == (0, 0, None, None, None)


def test_the_confusion_matrix_equals_scikit_learns(outcomes):
    expected = scikit_learns_confusion_matrix(outcomes.label, outcomes.prediction, labels=range(12))
    np.testing.assert_array_equal(confusion_matrix(outcomes, 12), expected)


def test_the_most_confused_pairs_are_the_largest_entries_off_the_diagonal(assessment, outcomes):
    matrix = confusion_matrix(outcomes, 12)
    examples = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    assert [pair.count for pair in assessment.confused] == sorted(matrix[matrix > 0].tolist(), reverse=True)[:50]
    for pair in assessment.confused:
        label, prediction = CLASSES.index(pair.label), CLASSES.index(pair.prediction)
        assert (pair.count, pair.share) == (matrix[label, prediction], matrix[label, prediction] / examples[label])


def test_the_calibration_error_is_that_of_its_definition(assessment, logits_and_labels):
    logits, labels = logits_and_labels
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            expected += inside.sum() / 1000 * abs(confidence[inside].mean() - right[inside].mean())
    assert assessment.ece == pytest.approx(expected, rel=1e-5)
    assert sum(each.examples for each in assessment.bins) == 1000


def test_a_confidence_on_an_edge_belongs_below_it_and_certainty_to_the_last_bin(outcomes):
    # 0.2 is an edge of 15 bins that float32 would round up.
    few = outcomes._replace(confidence=np.array([np.nextafter(np.float32(0.2), 0), 0.25, 1.0], np.float32))
    few = few._replace(label=np.zeros(3, np.int32), prediction=np.array([0, 0, 1], np.int32))
    bins = reliability(few)
    assert [number for number, each in enumerate(bins) if each.examples] == [2, 3, 14]
    assert (bins[14].confidence, bins[14].accuracy) == (1.0, 0.0)
    assert (bins[0].confidence, bins[0].accuracy) == (None, None)


def test_a_network_without_mistakes_confuses_nothing(outcomes):
    perfect = assess(outcomes._replace(prediction=outcomes.label), CLASSES, 1000)
    assert perfect.confused == ()
    assert {each.f1 for each in perfect.classes[:11]} == {1.0}


def test_nothing_to_assess_is_an_error(outcomes):
    nothing = type(outcomes)(*(part if part is None else part[:0] for part in outcomes))
    with pytest.raises(UserError, match="not one of 1,000 examples could be scored"):
        assess(nothing, CLASSES, 1000)
