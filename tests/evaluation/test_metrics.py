import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from resnet_jax.errors import UserError
from resnet_jax.evaluation import metrics
from resnet_jax.evaluation.metrics import ExampleMetrics
from resnet_jax.runtime import parallel


def outcomes_of(logits, labels):
    positions = jnp.arange(len(labels), dtype=jnp.int32)
    return parallel.fetch(metrics.outcomes(jnp.asarray(logits), jnp.asarray(labels), positions))


def judge(logits, labels):
    return metrics.summarize(outcomes_of(logits, labels), len(labels))


def at(*positions):
    """Right predictions of some examples."""
    count = len(positions)
    zeros = np.zeros(count, np.int32)
    loss, confidence = np.zeros(count, np.float32), np.ones(count, np.float32)
    return ExampleMetrics(np.array(positions, np.int32), zeros, loss, zeros, confidence, np.ones(count, bool))


def test_figures_equal_scikit_learns():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 12)).astype(np.float32)
    labels = generator.integers(0, 12, 500).astype(np.int32)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    scores = judge(logits, labels)
    assert scores.top1 == accuracy_score(labels, logits.argmax(-1))
    assert scores.top5 == top_k_accuracy_score(labels, logits, k=5)
    assert scores.loss == pytest.approx(log_loss(labels, probabilities, labels=range(12)), rel=1e-6)
    assert (scores.examples, scores.unreadable) == (500, 0)


def test_top5_of_three_classes_is_all():
    scores = judge(np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]], np.float32), np.array([0, 1], np.int32))
    assert (scores.top1, scores.top5) == (0.0, 1.0)


def test_equal_logits_earn_no_credit_for_the_tie():
    """A network that says the same of all classes is right where the first class is."""
    scores = judge(np.zeros((10, 10), np.float32), np.arange(10, dtype=np.int32))
    assert (scores.top1, scores.top5) == (0.1, 0.5)


def test_an_outcome_says_of_which_example_it_is_and_what_was_right():
    outcome = outcomes_of(np.eye(3, dtype=np.float32)[[2, 0]], np.array([2, 1], np.int32))
    assert outcome.position.tolist() == [0, 1]
    assert outcome.label.tolist() == [2, 1]
    assert outcome.prediction.tolist() == [2, 0]
    np.testing.assert_allclose(outcome.confidence, np.e / (np.e + 2), rtol=1e-6)
    assert outcome.log_probabilities is None
    assert {part.dtype.name for part in outcome[:-1]} == {"int32", "float32", "bool"}


def test_what_could_not_be_scored_is_counted_and_left_out_of_the_means():
    scores = metrics.summarize(at(0, 3, 4), total=5)
    assert (scores.examples, scores.unreadable, scores.top1) == (3, 2, 1.0)


def test_nothing_scored_is_an_error():
    with pytest.raises(UserError, match="not one of 1,000 examples could be scored"):
        metrics.summarize(at(), total=1000)


@pytest.mark.parametrize("positions", [(0, 1, 1), (0, 3), (-1, 0)])
def test_an_example_that_is_scored_twice_or_does_not_exist_is_noticed(positions):
    with pytest.raises(ValueError, match="are not of different ones"):
        metrics.summarize(at(*positions), total=3)
