"""Identities of class activation maps on the published ResNet-20, which ends with average pooling and a linear head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.attribution import cam
from resnet_jax.attribution.attribution_model import StageGradients

LAST = "stage3"


def test_hires_cam_at_the_last_stage_sums_to_the_logit_minus_the_bias(published, model, images, targets):
    maps = cam.hires_cam(model.stage_gradients(images, targets, LAST))
    bias = published.variables["params"]["head"]["bias"][targets]
    np.testing.assert_allclose(jnp.sum(maps, axis=(1, 2)) + bias, model.target_logits(images, targets), rtol=1e-5)


def test_grad_cam_at_the_last_stage_is_cam_divided_by_the_number_of_positions(published, model, images, targets):
    """CAM (Zhou et al. 2016, equation 2) weights the channels by the head's kernel."""
    stage = model.stage_gradients(images, targets, LAST)
    kernel = published.variables["params"]["head"]["kernel"][:, targets].T
    expected = jax.nn.relu(jnp.einsum("nhwc,nc->nhw", stage.activations, kernel))
    np.testing.assert_allclose(8 * 8 * cam.grad_cam(stage), expected, rtol=1e-5, atol=1e-5)


def test_grad_cam_plus_plus_equals_grad_cam_up_to_a_factor_where_gradients_are_equal():
    """With gradient g > 0 at all n positions of a single channel, its weight is n * g^3 / (2 g^2 + sum(A) g^3)."""
    activations = jnp.arange(1.0, 5).reshape(1, 2, 2, 1)
    gradients = jnp.full((1, 2, 2, 1), 0.5)
    maps = cam.grad_cam_plus_plus(StageGradients(activations, gradients))
    weight = 4 * 0.5**3 / (2 * 0.5**2 + 10 * 0.5**3)
    np.testing.assert_allclose(maps, weight * activations[..., 0], rtol=1e-5)


def test_layer_cam_ignores_negative_gradients():
    gradients = jnp.array([1.0, -1.0, 2.0, -3.0]).reshape(1, 2, 2, 1)
    maps = cam.layer_cam(StageGradients(jnp.ones((1, 2, 2, 1)), gradients))
    assert maps.tolist() == [[[1.0, 0.0], [2.0, 0.0]]]


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_gradients_of_a_stage_predict_the_change_of_the_logit(model, images, targets, stage):
    """Small changes of the images change the output of the stage, and with it the logits."""
    direction = jax.random.normal(jax.random.key(0), images.shape)
    before, after = (images + step * direction for step in (-3e-3, 3e-3))
    change = (
        model.stage_gradients(after, targets, stage).activations
        - model.stage_gradients(before, targets, stage).activations
    )
    predicted = jnp.sum(model.stage_gradients(images, targets, stage).gradients * change, axis=(1, 2, 3))
    measured = model.target_logits(after, targets) - model.target_logits(before, targets)
    assert np.corrcoef(predicted, measured)[0, 1] > 0.99
