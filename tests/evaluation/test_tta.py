import jax
import numpy as np
import pytest

from resnet_jax.evaluation.tta import make_apply
from tests.evaluation.conftest import PREPROCESS, random_examples


@pytest.fixture
def images():
    return PREPROCESS(random_examples(5).images)


def test_single_view_returns_the_logits_of_the_model(model_and_variables, images):
    model, variables = model_and_variables
    logits = model.apply(variables, images, train=False)
    np.testing.assert_array_equal(make_apply(model)(variables, images), logits)


def test_flip_averages_the_probabilities_of_an_image_and_its_mirror_image(model_and_variables, images):
    model, variables = model_and_variables
    mirrored = np.flip(np.asarray(images), axis=2)
    original_probabilities = jax.nn.softmax(model.apply(variables, images, train=False))
    mirrored_probabilities = jax.nn.softmax(model.apply(variables, mirrored, train=False))
    actual = jax.nn.softmax(make_apply(model, "flip")(variables, images))
    assert not np.allclose(original_probabilities, mirrored_probabilities)
    np.testing.assert_allclose(actual, (original_probabilities + mirrored_probabilities) / 2, rtol=1e-5)
