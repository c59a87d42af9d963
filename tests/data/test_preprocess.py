import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.examples import read_examples
from resnet_jax.data.preprocess import Preprocess, channel_statistics
from resnet_jax.data.selection import Selection
from resnet_jax.data.sources import open_dataset
from resnet_jax.data.unreadable import UnreadablePictures


def test_normalises_as_written():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3), np.uint8)
    normalised = Preprocess((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(jnp.asarray(images))
    assert normalised.dtype == jnp.float32
    np.testing.assert_allclose(normalised, (images / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7], rtol=1e-5, atol=1e-6)


def test_statistics_equal_numpy():
    images = np.random.default_rng(0).integers(0, 256, (50, 7, 5, 3), np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_makes_no_nan():
    images = np.full((4, 2, 2, 1), 7, np.uint8)
    assert np.isfinite(Preprocess(*channel_statistics(images))(jnp.asarray(images))).all()


def test_statistics_of_cifar10_are_the_known_ones(test_data):
    """The means of the whole training split; a tenth of it comes close to them."""
    selection = Selection.of(open_dataset("cifar10", str(test_data / "tfds")), "train[:5000]")
    train = read_examples(selection, UnreadablePictures(0, print))
    mean, _ = channel_statistics(train.images)
    assert [255 * value for value in mean] == pytest.approx([125.307, 122.950, 113.865], abs=1.5)
