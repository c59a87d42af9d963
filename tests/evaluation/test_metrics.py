import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, precision_recall_fscore_support, top_k_accuracy_score
from sklearn.metrics import confusion_matrix as scikit_learn_confusion_matrix

from resnet_jax.errors import UserError
from resnet_jax.evaluation.metrics import (
    ExampleMetrics,
    calibration_bins,
    classification_report,
    confusion_matrix,
    example_metrics,
    summarize,
    wilson_interval,
    worst_mistakes,
)
from resnet_jax.runtime import parallel


def metrics_of(logits, labels):
    positions = jnp.arange(len(labels), dtype=jnp.int32)
    return parallel.fetch(example_metrics(jnp.asarray(logits), jnp.asarray(labels), positions))


class TestExampleMetrics:
    def test_hold_position_label_prediction_and_confidence(self):
        metrics = metrics_of(np.eye(3, dtype=np.float32)[[2, 0]], np.array([2, 1], np.int32))
        assert metrics.position.tolist() == [0, 1]
        assert metrics.label.tolist() == [2, 1]
        assert metrics.prediction.tolist() == [2, 0]
        np.testing.assert_allclose(metrics.confidence, np.e / (np.e + 2), rtol=1e-6)
        assert metrics.log_probabilities is None
        assert {array.dtype.name for array in metrics[:-1]} == {"int32", "float32", "bool"}

    def test_worst_mistakes_are_the_wrong_predictions_by_loss(self):
        logits = np.array([[0, 1], [0, 3], [5, 0], [0, 2], [0, 3]], np.float32)
        metrics = metrics_of(logits, np.array([0, 0, 0, 0, 0], np.int32))
        assert worst_mistakes(metrics, 9).tolist() == [1, 4, 3, 0]
        assert worst_mistakes(metrics, 3).tolist() == [1, 4, 3]


class TestMeanMetrics:
    def means_of(self, logits, labels):
        return summarize(metrics_of(logits, labels), len(labels))

    def correct_predictions(self, *positions):
        """Return the metrics of correctly classified examples at these positions."""
        count = len(positions)
        zeros = np.zeros(count, np.int32)
        loss, confidence = np.zeros(count, np.float32), np.ones(count, np.float32)
        return ExampleMetrics(np.array(positions, np.int32), zeros, loss, zeros, confidence, np.ones(count, bool))

    def test_equal_those_of_scikit_learn(self):
        generator = np.random.default_rng(0)
        logits = generator.normal(size=(500, 12)).astype(np.float32)
        labels = generator.integers(0, 12, 500).astype(np.int32)
        probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        means = self.means_of(logits, labels)
        assert means.top1 == accuracy_score(labels, logits.argmax(-1))
        assert means.top5 == top_k_accuracy_score(labels, logits, k=5)
        assert means.loss == pytest.approx(log_loss(labels, probabilities, labels=range(12)), rel=1e-6)
        assert (means.examples, means.unreadable) == (500, 0)

    def test_top5_of_three_classes_is_one(self):
        means = self.means_of(np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]], np.float32), np.array([0, 1], np.int32))
        assert (means.top1, means.top5) == (0.0, 1.0)

    def test_equal_logits_rank_by_class_number(self):
        """A model with equal logits for all classes is correct only for the first class."""
        means = self.means_of(np.zeros((10, 10), np.float32), np.arange(10, dtype=np.int32))
        assert (means.top1, means.top5) == (0.1, 0.5)

    def test_count_unreadable_examples_and_leave_them_out(self):
        means = summarize(self.correct_predictions(0, 3, 4), total=5)
        assert (means.examples, means.unreadable, means.top1) == (3, 2, 1.0)

    def test_without_readable_examples_raise_an_error(self):
        with pytest.raises(UserError, match="none of the 1,000 examples could be read"):
            summarize(self.correct_predictions(), total=1000)

    @pytest.mark.parametrize("positions", [(0, 1, 1), (0, 3), (-1, 0)])
    def test_reject_repeated_and_unknown_examples(self, positions):
        with pytest.raises(ValueError, match="distinct positions"):
            summarize(self.correct_predictions(*positions), total=3)


# As published by Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
@pytest.mark.parametrize(
    ("successes", "trials", "published"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_interval_matches_the_published_one(successes, trials, published):
    assert wilson_interval(successes, trials) == pytest.approx(published, abs=5e-5)


class TestClassificationReport:
    classes = tuple(f"class {number}" for number in range(12))

    @pytest.fixture(scope="class")
    @classmethod
    def logits_and_labels(cls):
        """About half of the predictions are correct; the last class has no examples and is never predicted."""
        generator = np.random.default_rng(0)
        labels = generator.integers(0, 11, 1000).astype(np.int32)
        logits = generator.normal(size=(1000, 12)).astype(np.float32)
        logits[np.arange(1000), labels] += 2
        logits[:, 11] = -10
        return logits, labels

    @pytest.fixture(scope="class")
    @classmethod
    def metrics(cls, logits_and_labels):
        logits, labels = map(jnp.asarray, logits_and_labels)
        return parallel.fetch(example_metrics(logits, labels, jnp.arange(1000)))

    @pytest.fixture(scope="class")
    @classmethod
    def report(cls, metrics):
        return classification_report(metrics, cls.classes, 1000)

    def test_intervals_follow_from_the_counts(self, report, metrics):
        correct = int((metrics.prediction == metrics.label).sum())
        assert report.top1_interval == wilson_interval(correct, 1000)
        assert report.top5_interval == wilson_interval(int(metrics.in_top5.sum()), 1000)
        assert report.top1_interval[0] < report.means.top1 < report.top1_interval[1]

    def test_class_metrics_equal_those_of_scikit_learn(self, report, metrics):
        expected = precision_recall_fscore_support(metrics.label, metrics.prediction, labels=range(11))
        actual = [(row.precision, row.recall, row.f1, row.examples) for row in report.classes[:11]]
        np.testing.assert_allclose(np.array(actual).T, np.array(expected), rtol=1e-12)
        assert [row.name for row in report.classes] == list(self.classes)

    def test_absent_class_has_no_ratios(self, report):
        last = report.classes[-1]
        assert (last.examples, last.predicted, last.precision, last.recall, last.f1) == (0, 0, None, None, None)

    def test_confusion_matrix_equals_that_of_scikit_learn(self, metrics):
        expected = scikit_learn_confusion_matrix(metrics.label, metrics.prediction, labels=range(12))
        np.testing.assert_array_equal(confusion_matrix(metrics, 12), expected)

    def test_confused_pairs_are_the_largest_off_diagonal_entries(self, report, metrics):
        matrix = confusion_matrix(metrics, 12)
        examples = matrix.sum(axis=1)
        np.fill_diagonal(matrix, 0)
        assert [pair.count for pair in report.confused] == sorted(matrix[matrix > 0].tolist(), reverse=True)[:50]
        for pair in report.confused:
            label, prediction = self.classes.index(pair.label), self.classes.index(pair.prediction)
            assert (pair.count, pair.share) == (matrix[label, prediction], matrix[label, prediction] / examples[label])

    def test_expected_calibration_error_follows_its_definition(self, report, logits_and_labels):
        logits, labels = logits_and_labels
        probabilities = np.exp(logits.astype(np.float64))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        confidence, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        expected = 0
        for number in range(15):
            inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
            if inside.any():
                expected += inside.sum() / 1000 * abs(confidence[inside].mean() - is_correct[inside].mean())
        assert report.ece == pytest.approx(expected, rel=1e-5)
        assert sum(calibration_bin.examples for calibration_bin in report.bins) == 1000

    def test_calibration_bins_include_their_upper_edges(self, metrics):
        # 0.2 is the edge between bins 2 and 3. In float32, 0.2 itself would be rounded up, into bin 3.
        few = metrics._replace(confidence=np.array([np.nextafter(np.float32(0.2), 0), 0.25, 1.0], np.float32))
        few = few._replace(label=np.zeros(3, np.int32), prediction=np.array([0, 0, 1], np.int32))
        bins = calibration_bins(few)
        assert [number for number, calibration_bin in enumerate(bins) if calibration_bin.examples] == [2, 3, 14]
        assert (bins[14].confidence, bins[14].accuracy) == (1.0, 0.0)
        assert (bins[0].confidence, bins[0].accuracy) == (None, None)

    def test_perfect_model_confuses_no_classes(self, metrics):
        perfect = classification_report(metrics._replace(prediction=metrics.label), self.classes, 1000)
        assert perfect.confused == ()
        assert {row.f1 for row in perfect.classes[:11]} == {1.0}

    def test_without_readable_examples_raises_an_error(self, metrics):
        empty = ExampleMetrics(*(array if array is None else array[:0] for array in metrics))
        with pytest.raises(UserError, match="none of the 1,000 examples could be read"):
            classification_report(empty, self.classes, 1000)


def test_wilson_interval_agrees_with_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for successes, trials in [(0, 10), (81, 263), (9_389, 10_000)]:
        assert wilson_interval(successes, trials) == pytest.approx(
            proportion.proportion_confint(successes, trials, method="wilson"), abs=1e-12
        )
