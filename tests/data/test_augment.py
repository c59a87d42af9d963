import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import config as settings
from resnet_jax.data import augment


def numbered(batch=64, size=6):
    """Pictures in which every pixel of every picture has a value of its own, none of them zero."""
    return jnp.arange(1, batch * size * size + 1).reshape(batch, size, size, 1)


def test_random_crop_cuts_a_window_out_of_the_padded_picture():
    images, padding = numbered(), 2
    cropped = np.asarray(augment.random_crop(jax.random.key(0), images, padding))
    padded = np.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    offsets = []
    for picture, border in zip(cropped, padded, strict=True):
        windows = {
            (top, left): border[top : top + 6, left : left + 6] for top in range(5) for left in range(5)
        }  # fmt: skip
        matching = [offset for offset, window in windows.items() if (window == picture).all()]
        assert len(matching) == 1
        offsets.append(matching[0])
    assert len(set(offsets)) > 15  # Of 25; each picture is moved on its own.


def test_random_crop_reaches_every_offset_equally():
    images = numbered(batch=9000, size=3)
    cropped = np.asarray(augment.random_crop(jax.random.key(1), images, 1))
    # Where the middle pixel of the original lies tells the offset.
    middle = np.asarray(images)[:, 1, 1, 0]
    counts = [(cropped[:, row, column, 0] == middle).sum() for row in range(3) for column in range(3)]
    assert sum(counts) == 9000
    assert min(counts) > 850  # 1,000 each expected, with a standard deviation of 30.
    assert max(counts) < 1150


def test_horizontal_flip_mirrors_half_of_the_pictures():
    images = numbered(batch=1000, size=4)
    flipped = np.asarray(augment.random_horizontal_flip(jax.random.key(0), images))
    mirrored = (flipped == np.asarray(images)[:, :, ::-1]).all((1, 2, 3))
    same = (flipped == np.asarray(images)).all((1, 2, 3))
    assert (mirrored ^ same).all()
    assert 440 < mirrored.sum() < 560  # 500 expected, with a standard deviation of 16.


def test_settings_choose_and_the_key_decides():
    config = settings.default().augment
    images = numbered()
    np.testing.assert_array_equal(augment.from_config(config)(jax.random.key(0), images), images)
    config.crop_padding, config.horizontal_flip = 1, True
    apply = augment.from_config(config)
    first = apply(jax.random.key(0), images)
    np.testing.assert_array_equal(first, apply(jax.random.key(0), images))
    assert (first != apply(jax.random.key(1), images)).any()
    assert first.dtype == images.dtype
