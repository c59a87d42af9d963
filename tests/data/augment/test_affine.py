import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.augment import affine

FILL = (10, 200, 90)
warp = jax.jit(affine.warp, static_argnums=2)


def warp_by_each(image, matrices):
    """Warp `image` by each matrix."""
    return np.asarray(warp(jnp.repeat(jnp.asarray(image)[None], len(matrices), 0), matrices, FILL)).astype(int)


def warp_with_pil(image, matrix):
    """Warp with PIL, which measures from the top left corner and not from the center."""
    height, width = image.shape[:2]
    matrix = np.asarray(matrix, np.float64)
    center = np.array([width / 2, height / 2])
    offset = matrix[:, 2] + center - matrix[:, :2] @ center
    coefficients = np.concatenate([matrix[:, :2], offset[:, None]], axis=1).reshape(-1).tolist()
    image = Image.fromarray(image)
    method, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.asarray(image.transform(image.size, method, coefficients, resample=resample, fillcolor=FILL)).astype(int)


VALUES = jnp.array([-0.31, -0.02, 0.1, 0.27])
MATRICES = {
    "rotation": affine.rotation(100 * VALUES),
    "shear_x": affine.shear_x(VALUES),
    "shear_y": affine.shear_y(VALUES),
    "translation": affine.translation(20 * VALUES, 10.5 * VALUES[::-1]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_warp_agrees_with_pil(smooth, name):
    images = warp_by_each(smooth, MATRICES[name])
    for image, matrix in zip(images, MATRICES[name], strict=True):
        assert np.abs(image - warp_with_pil(smooth, matrix)).max() <= 1
    assert (images == FILL).all(-1).any()


def test_rotation_is_counterclockwise_as_in_pil(smooth):
    angles = [-170.0, -20.0, 33.0, 90.0]
    for image, angle in zip(warp_by_each(smooth, affine.rotation(jnp.array(angles))), angles, strict=True):
        expected = Image.fromarray(smooth).rotate(angle, Image.Resampling.BILINEAR, fillcolor=FILL)
        assert np.abs(image - np.asarray(expected).astype(int)).max() <= 1


def test_translation_by_whole_pixels_is_exact(noise):
    moved = np.asarray(warp(jnp.asarray(noise), affine.translation(jnp.full(5, 3), -2), FILL))
    np.testing.assert_array_equal(moved[:, :-2, 3:], noise[:, 2:, :-3])
    assert (moved[:, -2:] == FILL).all()
    assert (moved[:, :, :3] == FILL).all()


def test_identity_warp_changes_nothing(noise):
    np.testing.assert_array_equal(warp(jnp.asarray(noise), affine.identity(5), FILL), noise)


def test_warp_does_not_round_floats(smooth):
    image = smooth.astype(np.float32)
    halfway = np.asarray(warp(image[None], affine.translation(jnp.array([0.5]), 0), 0.0))[0]
    assert halfway.dtype == np.float32
    np.testing.assert_allclose(halfway[:, 1:], (image[:, 1:] + image[:, :-1]) / 2, rtol=1e-5)
