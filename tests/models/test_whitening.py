import jax
import numpy as np

from resnet_jax.models.resnet import whitening_stem
from resnet_jax.models.whitening import patch_whitening_kernel
from tests.models.test_layers import Wrapper, make_layers


def smooth_images(count=50, size=12, channels=3):
    """Return images whose neighboring pixels and channels are correlated, with a mean that is not zero."""
    noise = np.random.default_rng(0).normal(size=(count, size + 2, size + 2, channels))
    smooth = noise[:, 2:, 2:] + noise[:, 1:-1, 1:-1] + noise[:, :-2, :-2] + noise.mean(-1, keepdims=True)[:, 2:, 2:]
    return (smooth + 1).astype(np.float32)


def apply_stem(images, kernel, activate=False, **settings):
    stem = Wrapper(make_layers(**settings), lambda layers, x: whitening_stem(x, 5, layers, activate))
    variables = {"params": {"stem_conv": {"kernel": kernel}, "stem_bias": {"bias": np.zeros(kernel.shape[-1])}}}
    return np.asarray(stem.apply(variables, images))


def test_whitened_patches_have_the_identity_as_covariance():
    images = smooth_images()
    assert np.abs(np.corrcoef(images.reshape(-1, 3), rowvar=False) - np.eye(3)).max() > 0.1
    outputs = apply_stem(images, patch_whitening_kernel(images, epsilon=0.0))
    assert outputs.shape == (50, 11, 11, 24)
    np.testing.assert_allclose(np.cov(outputs[..., :12].reshape(-1, 12), rowvar=False), np.eye(12), atol=1e-3)


def test_second_half_of_the_outputs_is_the_negative_of_the_first():
    images = smooth_images(channels=1)
    outputs = apply_stem(images, patch_whitening_kernel(images))
    assert outputs.shape[-1] == 8
    np.testing.assert_array_equal(outputs[..., 4:], -outputs[..., :4])


def test_epsilon_keeps_the_kernel_of_constant_images_finite():
    kernel = patch_whitening_kernel(np.ones((2, 4, 4, 3), np.float32))
    assert np.isfinite(kernel).all()


def test_stem_applies_the_activation_of_the_model():
    images = smooth_images(channels=1)
    kernel = patch_whitening_kernel(images)
    plain = apply_stem(images, kernel)
    activated = apply_stem(images, kernel, activate=True, activation="gelu")
    np.testing.assert_allclose(activated, jax.nn.gelu(plain, approximate=False), rtol=1e-6)
