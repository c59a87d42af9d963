import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from resnet_jax import parallel
from resnet_jax.evaluation import metrics


def judge(logits, labels):
    return metrics.summarize(parallel.fetch(metrics.outcomes(jnp.asarray(logits), jnp.asarray(labels))), labels)


def test_figures_equal_scikit_learns():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 12)).astype(np.float32)
    labels = generator.integers(0, 12, 500).astype(np.int32)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    scores = judge(logits, labels)
    assert scores.top1 == accuracy_score(labels, logits.argmax(-1))
    assert scores.top5 == top_k_accuracy_score(labels, logits, k=5)
    assert scores.loss == pytest.approx(log_loss(labels, probabilities, labels=range(12)), rel=1e-6)
    assert scores.examples == 500


def test_top5_of_three_classes_is_all():
    scores = judge(np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]], np.float32), np.array([0, 1], np.int32))
    assert (scores.top1, scores.top5) == (0.0, 1.0)


def test_equal_logits_earn_no_credit_for_the_tie():
    """A network that says the same of all classes is right where the first class is."""
    scores = judge(np.zeros((10, 10), np.float32), np.arange(10, dtype=np.int32))
    assert (scores.top1, scores.top5) == (0.1, 0.5)
