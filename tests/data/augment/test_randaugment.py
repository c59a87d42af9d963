import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from resnet_jax.data.augment import randaugment
from resnet_jax.data.augment.randaugment import OPERATIONS

FILL = (10, 200, 90)
STRENGTHS = (-1.0, -0.43, 0.0, 0.43, 1.0)
GRADED = [name for name in OPERATIONS if name not in ("identity", "autocontrast", "equalize")]
apply = jax.jit(randaugment.apply, static_argnums=3)


def affine(image, matrix, translation=(0, 0)):
    """PIL's transform with `matrix` [2, 2] about the centre of the picture."""
    centre = np.array(image.size) / 2
    matrix = np.asarray(matrix)
    offset = centre - matrix @ centre - np.asarray(translation)
    coefficients = np.concatenate([matrix, offset[:, None]], axis=1).reshape(-1).tolist()
    method, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, method, coefficients, resample=resample, fillcolor=FILL)


# What the table in the module's docstring says, done by PIL.
BY_PIL = {
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


def applied(picture):
    """`picture` after every operation at every strength, in one batch: [operations, strengths, height, width, 3]."""
    which = np.repeat(np.arange(len(OPERATIONS)), len(STRENGTHS))
    strengths = np.tile(np.array(STRENGTHS, np.float32), len(OPERATIONS))
    images = np.asarray(apply(np.repeat(picture[None], len(which), 0), which, strengths, FILL))
    return dict(zip(OPERATIONS, images.reshape(len(OPERATIONS), len(STRENGTHS), *picture.shape), strict=True))


def test_the_operations_are_the_papers():
    assert set(OPERATIONS) == set(BY_PIL)
    assert len(OPERATIONS) == 14


@pytest.mark.parametrize("name", OPERATIONS)
def test_does_what_pil_does(smooth, name):
    for picture, strength in zip(applied(smooth)[name], STRENGTHS, strict=True):
        expected = np.asarray(BY_PIL[name](Image.fromarray(smooth), strength))
        assert np.abs(picture.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("name", GRADED)
def test_grows_with_the_magnitude_from_nothing(smooth, name):
    change = np.abs(applied(smooth)[name].astype(int) - smooth).mean((1, 2, 3))
    assert change[0] > change[1] > change[2] == 0 < change[3] < change[4]


@pytest.fixture
def drawn(monkeypatch):
    """A function of randaugment's arguments to the operations and strengths that it draws, [num_ops, 4000] each."""

    def note(images, which, strength, fill):
        """The pictures are notebooks here: each application moves the lines down by one and writes a new one on top."""
        line = jnp.stack([which.astype(jnp.float32), strength], axis=-1)[:, None, :, None]
        return jnp.concatenate([line, images[:, :-1]], axis=1)

    def draw(num_ops, *magnitude):
        empty = jnp.full((4000, num_ops, 2, 1), jnp.nan)
        notes = jax.jit(randaugment.randaugment, static_argnums=2)(jax.random.key(0), empty, num_ops, *magnitude)
        return np.moveaxis(np.asarray(notes)[..., 0], (0, 2), (2, 0))

    monkeypatch.setattr(randaugment, "apply", note)
    return draw


def test_draws_operations_and_signs_evenly(drawn):
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


def test_magnitude_varies_by_its_deviation_within_its_range(drawn):
    magnitudes = 10 * np.abs(drawn(1, 5.0, 0.5)[1])
    assert abs(magnitudes.mean() - 5) < 0.05
    assert abs(magnitudes.std() - 0.5) < 0.05
    clipped = 10 * np.abs(drawn(1, 9.0, 1.0)[1])
    assert clipped.max() <= 10
    assert 0.12 < (clipped > 10 - 1e-5).mean() < 0.20  # Of a normal distribution, 16 % lie above one deviation.


def test_grey_pictures_are_changed_each_in_its_own_way(smooth):
    images = np.repeat(smooth[None, ..., :1], 32, 0)
    changed = np.asarray(jax.jit(randaugment.randaugment, static_argnums=(2, 3))(jax.random.key(0), images, 2, 9))
    assert changed.dtype == np.uint8
    assert len(np.unique(changed.reshape(32, -1), axis=0)) > 24
