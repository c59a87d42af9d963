import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.evaluation import metrics
from resnet_jax.evaluation.model_comparison import ensemble, mcnemar
from resnet_jax.runtime import parallel

LABELS = np.zeros(60, np.int32)


def outcomes_of(logits, labels=LABELS):
    arrays = map(jnp.asarray, (logits, labels, np.arange(len(labels))))
    return parallel.fetch(metrics.outcomes(*arrays, keep=True))


def answers(*right):
    """Of a network that is right about the examples in these ranges."""
    logits = np.zeros((60, 3), np.float32)
    logits[:, 1] = 1
    for some in right:
        logits[some, 0] = 2
    return outcomes_of(logits)


def test_mcnemar_counts_what_only_one_had_right():
    compared = mcnemar(answers(slice(0, 20)), answers(slice(15, 20), slice(50, 55)))
    assert (compared.only_first, compared.only_second) == (15, 5)
    # Twice the sum of binomial coefficients of 20 over 0 to 5, of 2 ** 20.
    assert compared.p_value == pytest.approx(2 * (1 + 20 + 190 + 1140 + 4845 + 15504) / 2**20)


def test_networks_that_say_the_same_do_not_differ():
    assert mcnemar(answers(slice(0, 20)), answers(slice(0, 20))).p_value == 1.0


def test_an_ensemble_answers_by_its_mean_probabilities():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 60, 4)).astype(np.float32)
    labels = generator.integers(0, 4, 60).astype(np.int32)
    together = ensemble([outcomes_of(each, labels) for each in logits])
    probabilities = np.exp(logits.astype(np.float64))
    mean = (probabilities / probabilities.sum(axis=-1, keepdims=True)).mean(axis=0)
    np.testing.assert_array_equal(together.prediction, mean.argmax(axis=-1))
    np.testing.assert_allclose(together.confidence, mean.max(axis=-1), rtol=1e-5)
    np.testing.assert_allclose(together.loss, -np.log(mean[np.arange(60), labels]), rtol=1e-5)


def test_an_ensemble_of_one_is_that_network():
    alone = answers(slice(0, 20))
    together = ensemble([alone])
    np.testing.assert_allclose(together.loss, alone.loss, rtol=1e-6)
    np.testing.assert_array_equal(together.prediction, alone.prediction)


def test_outcomes_of_different_examples_are_not_compared():
    other = outcomes_of(np.zeros((60, 3), np.float32), np.ones(60, np.int32))
    with pytest.raises(ValueError, match="different examples"):
        mcnemar(answers(), other)
    with pytest.raises(ValueError, match="different examples"):
        ensemble([answers(), other])
