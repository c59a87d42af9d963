import jax
import numpy as np
import optax
import pytest

from resnet_jax.evaluation.evaluate import make_evaluate
from tests.evaluation.conftest import PREPROCESS, random_examples


@pytest.mark.parametrize("batch_size", [16, 64, 20])
def test_each_example_is_judged_once_whatever_the_batches(model_and_variables, mesh, batch_size):
    """Batches that do not divide the examples, exceed them, or do not divide over the eight devices."""
    model, variables = model_and_variables
    examples = random_examples(37)
    outcomes = make_evaluate(model, PREPROCESS, batch_size, mesh)(variables, examples)
    logits = model.apply(variables, PREPROCESS(examples.images), train=False)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels)
    np.testing.assert_allclose(outcomes.loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(outcomes.prediction, logits.argmax(-1))
    assert outcomes.position.tolist() == list(range(37))
    assert outcomes.label.tolist() == examples.labels.tolist()
    assert outcomes.in_top5.shape == (37,)


def test_other_examples_and_other_variables_need_no_new_program(model_and_variables, single_device):
    model, variables = model_and_variables
    traced = []

    def preprocess(images):
        traced.append(images.shape)
        return PREPROCESS(images)

    evaluate = make_evaluate(model, preprocess, 16, single_device)
    one = evaluate(variables, random_examples(5))
    other = evaluate(jax.tree.map(lambda leaf: leaf + 1, variables), random_examples(37))
    assert (len(one.loss), len(other.loss)) == (5, 37)
    assert traced == [(16, 8, 8, 1)]


def test_outcomes_are_in_host_memory(model_and_variables, mesh):
    model, variables = model_and_variables
    outcomes = make_evaluate(model, PREPROCESS, 16, mesh)(variables, random_examples(5))
    assert {type(part) for part in outcomes[:-1]} == {np.ndarray}
