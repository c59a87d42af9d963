import jax
import numpy as np
import pytest

from resnet_jax.evaluation.tta import make_see
from tests.evaluation.conftest import PREPROCESS, random_examples


@pytest.fixture
def images():
    return PREPROCESS(random_examples(5).images)


def test_a_single_view_gives_the_network_s_logits(model_and_variables, images):
    model, variables = model_and_variables
    logits = model.apply(variables, images, train=False)
    np.testing.assert_array_equal(make_see(model)(variables, images), logits)


def test_flip_gives_the_mean_of_the_probabilities_of_a_picture_and_its_mirror_image(model_and_variables, images):
    model, variables = model_and_variables
    mirrored = np.flip(np.asarray(images), axis=2)
    one, other = (jax.nn.softmax(model.apply(variables, view, train=False)) for view in (images, mirrored))
    found = jax.nn.softmax(make_see(model, "flip")(variables, images))
    assert not np.allclose(one, other)
    np.testing.assert_allclose(found, (one + other) / 2, rtol=1e-5)
