import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from resnet_jax.data.augment import image_operations, randaugment, trivial_augment
from resnet_jax.data.augment.image_operations import OPERATIONS

FILL = (10, 200, 90)
STRENGTHS = (-1.0, -0.43, 0.0, 0.43, 1.0)
# The operations that depend on the strength.
GRADED = [name for name in OPERATIONS if name not in ("identity", "autocontrast", "equalize")]
RANGES = {"randaugment": randaugment.RANGES, "trivial_augment": trivial_augment.RANGES}
apply_operations = jax.jit(image_operations.apply_operations, static_argnums=(3, 4))


def affine(image, matrix, translation=(0, 0)):
    """PIL's transform with `matrix` [2, 2] about the center of the image."""
    center = np.array(image.size) / 2
    matrix = np.asarray(matrix)
    offset = center - matrix @ center - np.asarray(translation)
    coefficients = np.concatenate([matrix, offset[:, None]], axis=1).reshape(-1).tolist()
    method, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, method, coefficients, resample=resample, fillcolor=FILL)


def pil_operations(solarize, bits, factor, degrees, shear, distance):
    """Return the operations as PIL implements them, by image and strength, given how far they go at strength 1.

    Args:
      solarize, bits, factor, degrees, shear: see `image_operations.Ranges`.
      distance: a function of the side of an image that returns how far it is translated.
    """
    return {
        "identity": lambda image, s: image,
        "autocontrast": lambda image, s: ImageOps.autocontrast(image),
        "equalize": lambda image, s: ImageOps.equalize(image),
        "solarize": lambda image, s: ImageOps.solarize(image, solarize * (1 - abs(s))),
        "posterize": lambda image, s: ImageOps.posterize(image, 8 - round(bits * abs(s))),
        "color": lambda image, s: ImageEnhance.Color(image).enhance(1 + factor * s),
        "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(1 + factor * s),
        "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(1 + factor * s),
        "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + factor * s),
        "rotate": lambda image, s: image.rotate(degrees * s, Image.Resampling.BILINEAR, fillcolor=FILL),
        "shear_x": lambda image, s: affine(image, [[1, shear * s], [0, 1]]),
        "shear_y": lambda image, s: affine(image, [[1, 0], [shear * s, 1]]),
        "translate_x": lambda image, s: affine(image, np.eye(2), (distance(image.width) * s, 0)),
        "translate_y": lambda image, s: affine(image, np.eye(2), (0, distance(image.height) * s)),
    }


PIL_OPERATIONS = {
    "randaugment": pil_operations(256, 4, 0.9, 30, 0.3, lambda side: 0.45 * side),
    # Those of torchvision's TrivialAugmentWide, but with shears about the center.
    "trivial_augment": pil_operations(255, 6, 0.99, 135, 0.99, lambda side: 32),
}


def apply_all(image, method):
    """Apply every operation at every strength, in one batch, with the ranges of a method.

    Returns:
      Images [strengths, height, width, 3] by the name of the operation.
    """
    which = np.repeat(np.arange(len(OPERATIONS)), len(STRENGTHS))
    strengths = np.tile(np.array(STRENGTHS, np.float32), len(OPERATIONS))
    images = np.asarray(apply_operations(np.repeat(image[None], len(which), 0), which, strengths, RANGES[method], FILL))
    return dict(zip(OPERATIONS, images.reshape(len(OPERATIONS), len(STRENGTHS), *image.shape), strict=True))


def test_operations_are_those_of_the_paper():
    assert set(OPERATIONS) == set(PIL_OPERATIONS["randaugment"])
    assert len(OPERATIONS) == 14


@pytest.mark.parametrize("method", RANGES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_agrees_with_pil(smooth, name, method):
    for image, strength in zip(apply_all(smooth, method)[name], STRENGTHS, strict=True):
        expected = np.asarray(PIL_OPERATIONS[method][name](Image.fromarray(smooth), strength))
        assert np.abs(image.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("name", GRADED)
def test_operation_grows_with_the_magnitude_from_zero(smooth, name):
    change = np.abs(apply_all(smooth, "randaugment")[name].astype(int) - smooth).mean((1, 2, 3))
    assert change[0] > change[1] > change[2] == 0 < change[3] < change[4]
