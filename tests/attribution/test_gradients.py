import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.attribution import gradients
from resnet_jax.attribution.attribution_model import guided

TARGETS = jnp.zeros(2, int)


class Cubic:
    """A model whose logit is the sum of the cubes of all values of the image."""

    def target_logits(self, images, targets):
        return jnp.sum(images**3, axis=(1, 2, 3))

    def input_gradients(self, images, targets):
        return 3 * images**2


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_integrated_gradients_follow_the_midpoint_rule(steps):
    """The rule gives 1 - 1 / (4 * steps^2) for the integral of 3 * t^2 from 0 to 1, which is 1."""
    images = jax.random.uniform(jax.random.key(0), (2, 4, 5, 3))
    maps = gradients.integrated_gradients(Cubic(), images, TARGETS, steps)
    cubes = jnp.sum(images**3, axis=-1)
    np.testing.assert_allclose(maps, cubes * (1 - 1 / (4 * steps**2)), rtol=1e-5)
    gaps = gradients.completeness_gaps(Cubic(), images, TARGETS, maps)
    np.testing.assert_allclose(gaps, jnp.sum(cubes, axis=(1, 2)) / (4 * steps**2), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "expected"), [(32, 0.212), (128, 0.078)])
def test_completeness_gap_of_integrated_gradients_shrinks_with_the_steps(model, images, targets, steps, expected):
    """The median gap, for a mean change of the logit of 18.3."""
    maps = gradients.integrated_gradients(model, images, targets, steps)
    gaps = gradients.completeness_gaps(model, images, targets, maps)
    assert float(jnp.median(gaps)) == pytest.approx(expected, rel=0.1)
    change = model.target_logits(images, targets) - model.target_logits(jnp.zeros_like(images), targets)
    assert float(jnp.mean(change)) == pytest.approx(18.3, abs=0.1)


def test_input_gradients_predict_the_change_of_the_logit(model, images, targets):
    direction = jax.random.normal(jax.random.key(0), images.shape)
    predicted = jnp.sum(model.input_gradients(images, targets) * direction, axis=(1, 2, 3))
    after, before = (model.target_logits(images + step * direction, targets) for step in (3e-3, -3e-3))
    assert np.corrcoef(predicted, after - before)[0, 1] > 0.98


class Square:
    """A model whose gradient is the square of the image. It remembers the images."""

    def __init__(self):
        self.images = []

    def input_gradients(self, images, targets):
        self.images.append(np.asarray(images))
        return images**2


def test_smooth_grad_averages_over_different_noisy_copies():
    """The noise is 15 % of the range of an image, so the mean of the squares is the square of the image + 0.15^2."""
    model = Square()
    images = jnp.linspace(0, 1, 32 * 32).reshape(1, 32, 32, 1) * jnp.array([1.0, 4.0]).reshape(2, 1, 1, 1)
    maps = gradients.smooth_grad(model, images, TARGETS)
    copies = np.stack(model.images)
    assert len(copies) == gradients.SAMPLES
    np.testing.assert_allclose((copies - images).std(axis=0, ddof=1).mean(axis=(1, 2, 3)), [0.15, 0.6], rtol=0.02)
    np.testing.assert_allclose(maps, (copies**2).mean(axis=0)[..., 0], rtol=1e-4)
    added = (maps - images[..., 0] ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(added, [0.15**2, 0.6**2], rtol=0.1)


@pytest.mark.slow
def test_smooth_grad_of_one_image_does_not_depend_on_the_rest_of_the_batch(model, images, targets):
    batch = gradients.smooth_grad(model, images[:4], targets[:4])
    alone = gradients.smooth_grad(model, images[2:3], targets[2:3])
    np.testing.assert_allclose(batch[2:3], alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.gelu])
def test_guided_activation_drops_negative_gradients(activation):
    x, upstream = jnp.array([-1.0, -1.0, 2.0, 2.0]), jnp.array([1.0, -1.0, 1.0, -1.0])
    output, pull_back = jax.vjp(guided(activation), x)
    np.testing.assert_array_equal(output, activation(x))
    expected = jax.vjp(activation, x)[1](upstream)[0] * (upstream > 0)
    np.testing.assert_allclose(pull_back(upstream)[0], expected)
