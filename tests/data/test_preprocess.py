import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax
from resnet_jax import config as settings
from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.preprocess import Preprocess, channel_statistics
from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.evaluation.evaluate import score_run
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run


def test_preprocess_normalizes():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3), np.uint8)
    normalized = Preprocess((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(jnp.asarray(images))
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized, (images / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7], rtol=1e-5, atol=1e-6)


def test_grayscale_gets_the_channels_of_mean_and_std():
    images = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1)  # 0, 0.2 and 1.
    normalized = Preprocess((0.0, 0.5, 0.2), (1.0, 0.5, 2.0))(images)
    expected = [[[[0, -1, -0.1], [0.2, -0.6, 0], [1, 1, 0.4]]]]
    np.testing.assert_allclose(normalized, expected, atol=1e-6)


def test_smaller_images_are_enlarged_bilinearly():
    """Output pixels have their centers a quarter of an input pixel beside those of the input. Edges are extended."""
    images = np.array([[0, 80], [160, 240]], np.uint8).reshape(1, 2, 2, 1)
    enlarged = Preprocess((0.0,), (1 / 255,), image_size=4)(images)
    expected = [[0, 20, 60, 80], [40, 60, 100, 120], [120, 140, 180, 200], [160, 180, 220, 240]]
    np.testing.assert_allclose(enlarged[0, ..., 0], expected, atol=1e-4)


def test_larger_images_shrink_with_antialiasing():
    """A checkerboard of single pixels becomes gray; without anti-aliasing it would be black or white."""
    images = np.indices((32, 32)).sum(0).astype(np.uint8)[None, ..., None] % 2 * 255
    shrunk = Preprocess((0.0,), (1.0,), image_size=8)(images)
    assert shrunk.shape == (1, 8, 8, 1)
    np.testing.assert_allclose(shrunk, 0.5, atol=0.02)


def test_image_that_is_not_square_is_resized_as_a_whole():
    images = np.repeat(np.array([0, 255], np.uint8), (8, 8)).reshape(1, 1, 16, 1).repeat(2, 1)
    resized = np.asarray(Preprocess((0.0,), (1.0,), image_size=4)(images))[0, ..., 0]
    assert resized.shape == (4, 4)
    np.testing.assert_allclose(resized[0], [0, 0.125, 0.875, 1], atol=0.02)
    np.testing.assert_array_equal(resized, np.repeat(resized[:1], 4, 0))


def test_grayscale_images_are_resized_and_become_three_channels():
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 1), np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    from_gray, from_three = (Preprocess(mean, std, 9)(images.repeat(channels, -1)) for channels in (1, 3))
    assert from_gray.shape == (2, 9, 9, 3)
    np.testing.assert_allclose(from_gray, from_three, atol=1e-6)


def test_image_size_equal_to_that_of_the_images_changes_nothing():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)
    for image_size in (None, 5):
        np.testing.assert_array_equal(Preprocess(mean, std, image_size)(images), expected)


@pytest.mark.parametrize(("feed", "image_size"), [("resident", 48), ("streaming", None)])
def test_streamed_images_are_not_resized_on_the_device(feed, image_size):
    dataset = settings.default().dataset
    dataset.update(feed=feed, image_size=48, mean=(0.5,), std=(0.25,))
    assert Preprocess.from_config(dataset) == Preprocess((0.5,), (0.25,), image_size)


def test_mean_pixel_becomes_zero():
    preprocess = Preprocess((0.0, 0.2, 0.4), (0.5, 0.5, 0.5))
    assert preprocess.mean_pixel(3) == (0, 51, 102)
    assert preprocess.mean_pixel(1) == pytest.approx((51,))
    gray = preprocess(jnp.full((1, 1, 1, 1), preprocess.mean_pixel(1)[0]))
    np.testing.assert_allclose(gray[0, 0, 0], [0.4, 0, -0.4], atol=1e-6)


@pytest.mark.parametrize(("mean", "channels", "crop"), [(None, 1, ()), ((0.5, 0.45, 0.4), 3, (0.5, 1.0))])
@pytest.mark.slow
def test_loaded_run_preprocesses_images_as_in_training(tiny_config, tmp_path, capsys, mean, channels, crop):
    tiny_config.num_epochs, tiny_config.dataset.image_size = 1, 16
    tiny_config.dataset.mean, tiny_config.dataset.std = mean, mean and (0.25,) * 3
    tiny_config.dataset.validation_split, tiny_config.dataset.test_split = "train[400:500]", "none"
    tiny_config.augment.random_resized_crop = crop
    result = resnet_jax.train(tiny_config, str(tmp_path / "run"))
    run = load_run(str(tmp_path / "run"))
    assert "each step resizes its images to 16 x 16" in capsys.readouterr().out
    dataset = run.config.dataset
    assert (dataset.feed, dataset.image_size, dataset.eval_crop) == ("resident", 16, None)
    assert run.preprocess(np.zeros((1, 8, 8, 1), np.uint8)).shape == (1, 16, 16, channels)
    scores = score_run(run, open_sources("digits"), "train[400:500]", Reporter(active=False, max_unreadable=0))
    assert (scores["loss"], scores["top1"]) == (result["validation"]["loss"], result["validation"]["top1"])


def test_channel_statistics_equal_numpy():
    images = np.random.default_rng(0).integers(0, 256, (50, 7, 5, 3), np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_constant_channel_gives_no_nan():
    images = np.full((4, 2, 2, 1), 7, np.uint8)
    assert np.isfinite(Preprocess(*channel_statistics(images))(jnp.asarray(images))).all()


def test_channel_statistics_of_cifar10_are_the_published_ones(test_data):
    """The means of a tenth of the training split are close to the published means of the whole split."""
    subset = Subset.from_split(open_sources("cifar10", str(test_data / "tfds")), "train[:5000]")
    train = read_examples(subset, Reporter(active=False, max_unreadable=0))
    mean, _ = channel_statistics(train.images)
    assert [255 * value for value in mean] == pytest.approx([125.307, 122.950, 113.865], abs=1.5)
