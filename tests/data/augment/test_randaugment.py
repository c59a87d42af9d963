import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from resnet_jax.data.augment import randaugment
from resnet_jax.data.augment.randaugment import OPERATIONS

FILL = (10, 200, 90)
STRENGTHS = (-1.0, -0.43, 0.0, 0.43, 1.0)
# The operations that depend on the strength.
GRADED = [name for name in OPERATIONS if name not in ("identity", "autocontrast", "equalize")]
apply_operations = jax.jit(randaugment.apply_operations, static_argnums=3)


def affine(image, matrix, translation=(0, 0)):
    """PIL's transform with `matrix` [2, 2] about the center of the image."""
    center = np.array(image.size) / 2
    matrix = np.asarray(matrix)
    offset = center - matrix @ center - np.asarray(translation)
    coefficients = np.concatenate([matrix, offset[:, None]], axis=1).reshape(-1).tolist()
    method, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, method, coefficients, resample=resample, fillcolor=FILL)


# The operations in the table of `randaugment`'s docstring, as PIL implements them, by image and strength.
PIL_OPERATIONS = {
    "identity": lambda image, s: image,
    "autocontrast": lambda image, s: ImageOps.autocontrast(image),
    "equalize": lambda image, s: ImageOps.equalize(image),
    "solarize": lambda image, s: ImageOps.solarize(image, 256 * (1 - abs(s))),
    "posterize": lambda image, s: ImageOps.posterize(image, 8 - round(4 * abs(s))),
    "color": lambda image, s: ImageEnhance.Color(image).enhance(1 + 0.9 * s),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(1 + 0.9 * s),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(1 + 0.9 * s),
    "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * s),
    "rotate": lambda image, s: image.rotate(30 * s, Image.Resampling.BILINEAR, fillcolor=FILL),
    "shear_x": lambda image, s: affine(image, [[1, 0.3 * s], [0, 1]]),
    "shear_y": lambda image, s: affine(image, [[1, 0], [0.3 * s, 1]]),
    "translate_x": lambda image, s: affine(image, np.eye(2), (0.45 * s * image.width, 0)),
    "translate_y": lambda image, s: affine(image, np.eye(2), (0, 0.45 * s * image.height)),
}


def apply_all(image):
    """Apply every operation at every strength, in one batch.

    Returns:
      Images [strengths, height, width, 3] by the name of the operation.
    """
    which = np.repeat(np.arange(len(OPERATIONS)), len(STRENGTHS))
    strengths = np.tile(np.array(STRENGTHS, np.float32), len(OPERATIONS))
    images = np.asarray(apply_operations(np.repeat(image[None], len(which), 0), which, strengths, FILL))
    return dict(zip(OPERATIONS, images.reshape(len(OPERATIONS), len(STRENGTHS), *image.shape), strict=True))


def test_operations_are_those_of_the_paper():
    assert set(OPERATIONS) == set(PIL_OPERATIONS)
    assert len(OPERATIONS) == 14


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_agrees_with_pil(smooth, name):
    for image, strength in zip(apply_all(smooth)[name], STRENGTHS, strict=True):
        expected = np.asarray(PIL_OPERATIONS[name](Image.fromarray(smooth), strength))
        assert np.abs(image.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("name", GRADED)
def test_operation_grows_with_the_magnitude_from_zero(smooth, name):
    change = np.abs(apply_all(smooth)[name].astype(int) - smooth).mean((1, 2, 3))
    assert change[0] > change[1] > change[2] == 0 < change[3] < change[4]


@pytest.fixture
def drawn(monkeypatch):
    """Return a function of randaugment's arguments that returns the operations and strengths drawn, [num_ops, 4000]."""

    def record(images, which, strength, fill):
        """Record the draws in the images: move all lines down by one and write the new draw on top."""
        line = jnp.stack([which.astype(jnp.float32), strength], axis=-1)[:, None, :, None]
        return jnp.concatenate([line, images[:, :-1]], axis=1)

    def draw(num_ops, *magnitude):
        empty = jnp.full((4000, num_ops, 2, 1), jnp.nan)
        records = jax.jit(randaugment.randaugment, static_argnums=2)(jax.random.key(0), empty, num_ops, *magnitude)
        return np.moveaxis(np.asarray(records)[..., 0], (0, 2), (2, 0))

    monkeypatch.setattr(randaugment, "apply_operations", record)
    return draw


def test_randaugment_draws_operations_and_signs_evenly(drawn):
    operations, strengths = drawn(2, 9)
    for which in operations:
        counts = np.bincount(which.astype(int), minlength=14)
        assert counts.sum() == 4000
        assert counts.min() > 220  # 286 each expected, with a standard deviation of 16.
        assert counts.max() < 350
    np.testing.assert_allclose(np.abs(strengths), 0.9, rtol=1e-6)
    assert 1850 < (strengths > 0).sum(axis=1).min() <= (strengths > 0).sum(axis=1).max() < 2150
    # The second operation does not depend on the first, nor the sign on the operation.
    assert 220 < (operations[0] == operations[1]).sum() < 350
    assert 0.44 < (strengths > 0)[operations < 7].mean() < 0.56


def test_randaugment_magnitude_varies_by_its_std_within_its_range(drawn):
    magnitudes = 10 * np.abs(drawn(1, 5.0, 0.5)[1])
    assert abs(magnitudes.mean() - 5) < 0.05
    assert abs(magnitudes.std() - 0.5) < 0.05
    clipped = 10 * np.abs(drawn(1, 9.0, 1.0)[1])
    assert clipped.max() <= 10
    assert 0.12 < (clipped > 10 - 1e-5).mean() < 0.20  # 16 % of a normal distribution lie above one standard deviation.


def test_randaugment_draws_separately_for_each_grayscale_image(smooth):
    images = np.repeat(smooth[None, ..., :1], 32, 0)
    changed = np.asarray(jax.jit(randaugment.randaugment, static_argnums=(2, 3))(jax.random.key(0), images, 2, 9))
    assert changed.dtype == np.uint8
    assert len(np.unique(changed.reshape(32, -1), axis=0)) > 24
