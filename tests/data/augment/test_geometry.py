import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.augment import geometry

random_rotation = jax.jit(geometry.random_rotation)


def numbered_images(batch=64, size=6):
    """Return images in which every pixel of every image has its own value, none of them zero."""
    return jnp.arange(1, batch * size * size + 1).reshape(batch, size, size, 1)


def test_random_crop_returns_a_window_of_the_padded_image():
    images, padding = numbered_images(), 2
    cropped = np.asarray(geometry.random_crop(jax.random.key(0), images, padding))
    padded = np.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    offsets = []
    for image, padded_image in zip(cropped, padded, strict=True):
        windows = {
            (top, left): padded_image[top : top + 6, left : left + 6] for top in range(5) for left in range(5)
        }  # fmt: skip
        matching = [offset for offset, window in windows.items() if (window == image).all()]
        assert len(matching) == 1
        offsets.append(matching[0])
    assert len(set(offsets)) > 15  # Of 25; each image has its own offset.


def test_random_crop_reaches_every_offset_equally():
    images = numbered_images(batch=9000, size=3)
    cropped = np.asarray(geometry.random_crop(jax.random.key(1), images, 1))
    # The position of the original's middle pixel gives the offset.
    middle = np.asarray(images)[:, 1, 1, 0]
    counts = [(cropped[:, row, column, 0] == middle).sum() for row in range(3) for column in range(3)]
    assert sum(counts) == 9000
    assert min(counts) > 850  # 1,000 each expected, with a standard deviation of 30.
    assert max(counts) < 1150


def test_reflected_border_mirrors_the_image_at_its_outermost_pixels():
    images = numbered_images(batch=200)
    cropped = np.asarray(geometry.random_crop(jax.random.key(0), images, 2, "reflect"))
    padded = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)], "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded[..., 0], (6, 6), axis=(1, 2))
    is_window = (windows == cropped[:, None, None, :, :, 0]).all((3, 4))
    assert is_window.any((1, 2)).all()
    assert is_window.any(0).all()  # Every offset occurs.


def test_alternating_flip_shows_each_image_both_ways_within_two_epochs():
    images, examples = numbered_images(batch=400, size=4), jax.random.permutation(jax.random.key(1), 400)
    flip = jax.jit(lambda epoch: geometry.alternating_flip(jax.random.key(0), images, examples, epoch))
    is_mirrored = [(np.asarray(flip(epoch)) == np.asarray(images)[:, :, ::-1]).all((1, 2, 3)) for epoch in range(4)]
    np.testing.assert_array_equal(is_mirrored[0], ~is_mirrored[1])
    np.testing.assert_array_equal(is_mirrored[:2], is_mirrored[2:])
    assert 160 < is_mirrored[0].sum() < 240  # 200 expected, with a standard deviation of 10


def test_alternating_flip_depends_on_the_example_and_not_on_its_place_in_the_batch():
    images, examples = numbered_images(batch=50, size=4), jnp.arange(50)
    order = np.random.default_rng(0).permutation(50)
    flipped = geometry.alternating_flip(jax.random.key(0), images, examples, 0)
    shuffled = geometry.alternating_flip(jax.random.key(0), images[order], examples[order], 0)
    np.testing.assert_array_equal(shuffled, flipped[order])


def test_horizontal_flip_mirrors_half_of_the_images():
    images = numbered_images(batch=1000, size=4)
    flipped = np.asarray(geometry.random_horizontal_flip(jax.random.key(0), images))
    mirrored = (flipped == np.asarray(images)[:, :, ::-1]).all((1, 2, 3))
    same = (flipped == np.asarray(images)).all((1, 2, 3))
    assert (mirrored ^ same).all()
    assert 440 < mirrored.sum() < 560  # 500 expected, with a standard deviation of 16.


def test_random_rotation_draws_angles_up_to_the_limit():
    """Measure the angle by a bright spot right of the center."""
    size, distance = 41, 16
    images = np.zeros((2000, size, size, 1), np.float32)
    images[:, size // 2, size // 2 + distance] = 255
    rotated = np.asarray(random_rotation(jax.random.key(0), images, 30.0))[..., 0]
    weights = rotated / rotated.sum((1, 2), keepdims=True)
    rows, columns = np.arange(size) - size // 2, np.arange(size) - size // 2
    up, right = -(weights.sum(2) * rows).sum(1), (weights.sum(1) * columns).sum(1)
    angles = np.degrees(np.arctan2(up, right))
    counts, _ = np.histogram(angles, bins=10, range=(-31, 31))
    assert counts.sum() == 2000
    assert counts.min() > 150  # About 200 each, with a standard deviation of 13, and a little less at the ends.
    assert counts.max() < 260


def test_random_rotation_fills_corners(smooth):
    """A rotation by 20 degrees or more fills all four corners of this image."""
    rotated = np.asarray(random_rotation(jax.random.key(0), np.repeat(smooth[None], 50, 0), 40.0, (1, 2, 3)))
    corners = (rotated[:, [0, 0, -1, -1], [0, -1, 0, -1]] == (1, 2, 3)).all((1, 2))
    assert 15 < corners.sum() < 50


@pytest.mark.parametrize("content", ["noise", "smooth"])
def test_resized_crop_agrees_with_pil(request, content):
    images = np.resize(request.getfixturevalue(content), (5, 20, 28, 3))
    crops = np.array([[0, 0, 20, 28], [3, 5, 4, 6], [2.5, 1.25, 10.75, 20.5], [10, 0, 10, 28], [19, 27, 1, 1]])
    resized = np.asarray(jax.jit(geometry.resized_crop)(images, crops.astype(np.float32)))
    assert resized.dtype == np.uint8
    for image, original, (top, left, height, width) in zip(resized, images, crops, strict=True):
        box = (left, top, left + width, top + height)
        expected = np.asarray(Image.fromarray(original).resize((28, 20), Image.Resampling.BILINEAR, box=box))
        assert np.abs(image.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("size", [7, 50])
def test_resized_crop_has_the_requested_size(noise, size):
    """Each crop is resized directly from the image, whether it shrinks or grows, as in PIL."""
    crops = np.array([[0, 0, 20, 28], [3, 5, 4, 6], [2.5, 1.25, 10.75, 20.5], [10, 0, 10, 28], [19, 27, 1, 1]])
    resized = np.asarray(jax.jit(geometry.resized_crop, static_argnums=2)(noise, crops.astype(np.float32), size))
    assert (resized.shape, resized.dtype) == ((5, size, size, 3), np.uint8)
    for image, original, (top, left, height, width) in zip(resized, noise, crops, strict=True):
        box = (left, top, left + width, top + height)
        expected = np.asarray(Image.fromarray(original).resize((size, size), Image.Resampling.BILINEAR, box=box))
        assert np.abs(image.astype(int) - expected.astype(int)).max() <= 1


def test_random_resized_crop_draws_the_same_boxes_for_every_size(smooth):
    """A crop at a larger size shows the same region as a crop at the usual size."""
    images, key = np.repeat(smooth[None, :, :20].astype(np.float32), 8, 0), jax.random.key(0)
    usual, larger = (geometry.random_resized_crop(key, images, (0.3, 0.8), size=size) for size in (None, 60))
    assert larger.shape == (8, 60, 60, 3)
    inside = np.s_[:, 3:-3, 3:-3]  # At the border the larger crop shows more than can be derived from the smaller.
    expected = jax.image.resize(usual, larger.shape, "bilinear")
    assert np.abs(larger - expected)[inside].max() < 8
    assert np.abs(larger - expected[::-1])[inside].max() > 80


def test_random_resized_crop_draws_areas_and_ratios_uniformly():
    """Measure the size of the crops by gradients, which get flatter as the cropped region gets smaller."""
    rows, columns = np.meshgrid(np.arange(96.0), np.arange(128.0), indexing="ij")
    slopes = np.repeat(np.stack([rows, columns], axis=-1)[None], 2000, 0)
    crop = jax.jit(geometry.random_resized_crop, static_argnums=(2, 3, 4))
    shown = np.asarray(crop(jax.random.key(0), slopes.astype(np.float32), (0.2, 0.5), (3 / 4, 4 / 3), 8))
    height, width = 8 * (shown[:, 4, 4, 0] - shown[:, 3, 4, 0]), 8 * (shown[:, 4, 4, 1] - shown[:, 4, 3, 1])
    # Sides are whole pixels, which moves a few areas and ratios out of the range.
    counts, _ = np.histogram(height * width / (96 * 128), bins=10, range=(0.195, 0.51))
    assert counts.sum() == 2000
    assert counts.min() > 150  # 200 each expected, with a standard deviation of 13.
    assert counts.max() < 250
    ratios = np.histogram(np.log(width / height), bins=2, range=(np.log(0.735), np.log(1.36)))[0]
    assert ratios.sum() == 2000
    assert abs(ratios[0] - 1000) < 90
    assert len(np.unique(shown[:, 4, 4, 0].round(3))) > 100  # Each image has its own crop.


def test_geometry_accepts_a_single_grayscale_image(noise):
    images, key = noise[:1, ..., :1], jax.random.key(0)
    for change, *args in (
        (geometry.random_crop, 2),
        (geometry.random_horizontal_flip,),
        (geometry.random_rotation, 20.0),
        (geometry.random_resized_crop, (0.5, 1.0)),
    ):
        changed = jax.jit(change, static_argnums=range(2, 2 + len(args)))(key, images, *args)
        assert changed.shape == images.shape
        assert changed.dtype == images.dtype
