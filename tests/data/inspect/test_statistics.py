import numpy as np
import pytest

from resnet_jax.data import preprocess
from resnet_jax.data.inspect import statistics
from resnet_jax.data.inspect.scan import look
from resnet_jax.data.sources import open_sources
from resnet_jax.terminal import Reporter


def look_at(name):
    return look(open_sources(name), 0, Reporter(active=False))


def test_figures_of_a_split(folder, noise):
    files = {
        "train/cat/a.png": noise(10, 20),
        "train/cat/b.png": noise(30, 20),
        "train/cat/c.png": noise(10, 20),
        "train/dog/d.png": noise(5, 9),
        "train/dog/e.png": b"",
        "val/dog/f.png": noise(7, 7),
    }
    of = statistics.of_splits(look_at(folder(files)))
    assert of["train"] == statistics.SplitFigures(
        examples=5,
        unreadable=1,
        classes={"cat": 3, "dog": 1},
        unlabelled=0,
        smallest=(5, 9),
        median=(10, 20),
        largest=(30, 20),
        sizes=3,
    )
    assert of["val"].classes == {"cat": 0, "dog": 1}


def test_a_split_of_which_nothing_can_be_read(folder, noise):
    of = statistics.of_splits(look_at(folder({"train/cat/a.png": noise(), "val/cat/b.png": b""})))["val"]
    assert (of.examples, of.unreadable, of.smallest, of.sizes) == (1, 1, None, 0)


def test_smaller_pictures_are_told_by_their_short_side(folder, noise):
    looked = look_at(folder({"cat/a.png": noise(10, 50), "cat/b.png": noise(50, 11), "cat/c.png": b""}))
    assert statistics.count_smaller(looked, [10, 11, 12]) == {10: 0, 11: 1, 12: 2}


def test_channel_statistics_are_of_all_pixels(folder, noise):
    pictures = {"cat/a.png": noise(10, 20), "cat/b.png": noise(3, 4) // 2, "cat/c.png": b""}
    looked = look_at(folder(pictures))
    mean, std = statistics.channel_statistics(looked, np.arange(3))
    pixels = np.concatenate([picture.reshape(-1, 3) for name, picture in pictures.items() if name != "cat/c.png"]) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-12)


def test_channel_statistics_agree_with_those_of_a_run():
    sources = open_sources("digits")
    looked = look(sources, 0, Reporter(active=False))
    mean, std = statistics.channel_statistics(looked, looked.positions("train"))
    expected_mean, expected_std = preprocess.channel_statistics(sources["train"].images)
    assert mean == pytest.approx(expected_mean, rel=1e-12)
    assert std == pytest.approx(expected_std, rel=1e-12)


def test_a_single_colour_has_a_deviation_to_divide_by(folder):
    looked = look_at(folder({"cat/a.png": np.full((4, 4, 3), 51, np.uint8)}))
    assert statistics.channel_statistics(looked, np.arange(1)) == (pytest.approx((0.2, 0.2, 0.2)), (1.0, 1.0, 1.0))


def test_repeated_pictures(folder, noise):
    once, twice, thrice = noise(), noise(), noise()
    files = {
        "train/cat/once.png": once,
        "train/cat/twice.png": twice,
        "val/cat/again.png": twice,
        "train/cat/one.png": thrice,
        "train/dog/two.png": thrice,
        "train/dog/three.png": thrice,
        "train/dog/empty.png": b"",
        "val/dog/empty.png": b"",
    }
    looked = look_at(folder(files))
    groups = [statistics.describe_repeated(looked, group) for group in statistics.repeated(looked)]
    found = {
        frozenset(zip([name.rpartition("/")[2] for name in group.names], group.splits, group.labels, strict=True))
        for group in groups
    }
    assert found == {
        frozenset({("twice.png", "train", "cat"), ("again.png", "val", "cat")}),
        frozenset({("one.png", "train", "cat"), ("two.png", "train", "dog"), ("three.png", "train", "dog")}),
    }
