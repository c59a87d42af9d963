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


def test_flip_averages_the_logits_of_an_image_and_its_mirror_image(model_and_variables, images):
    model, variables = model_and_variables
    mirrored = np.flip(np.asarray(images), axis=2)
    logits, mirrored_logits = (model.apply(variables, views, train=False) for views in (images, mirrored))
    assert not np.allclose(logits, mirrored_logits)
    actual = make_apply(model, "flip")(variables, images)
    np.testing.assert_allclose(actual, (logits + mirrored_logits) / 2, rtol=1e-4, atol=1e-6)


def test_mirror_translate_averages_the_logits_of_six_views(model_and_variables, images):
    """The original has half of the weight; the images moved by a pixel to both corners have a quarter each."""
    model, variables = model_and_variables
    height, width = images.shape[1:3]
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], "reflect")
    views = [images, padded[:, :height, :width], padded[:, 2:, 2:]]
    expected = 0
    for view, weight in zip(views, (0.5, 0.25, 0.25), strict=True):
        for version in (view, view[:, :, ::-1]):
            expected += weight / 2 * np.asarray(model.apply(variables, version, train=False))
    actual = make_apply(model, "mirror_translate")(variables, images)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
