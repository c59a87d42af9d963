import numpy as np
import pytest

from resnet_jax.data import preprocess
from resnet_jax.data.inspect import statistics
from resnet_jax.data.inspect.scan import scan_images
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.terminal import Reporter


def scan(name):
    return scan_images(open_sources(name), 0, Reporter(active=False))


def test_split_statistics_describe_each_split(folder, noise):
    files = {
        "train/cat/a.png": noise(10, 20),
        "train/cat/b.png": noise(30, 20),
        "train/cat/c.png": noise(10, 20),
        "train/dog/d.png": noise(5, 9),
        "train/dog/e.png": b"",
        "val/dog/f.png": noise(7, 7),
    }
    splits = statistics.split_statistics(scan(folder(files)))
    assert splits["train"] == statistics.SplitStatistics(
        examples=5,
        unreadable=1,
        classes={"cat": 3, "dog": 1},
        unlabelled=0,
        smallest=(5, 9),
        median=(10, 20),
        largest=(30, 20),
        sizes=3,
    )
    assert splits["val"].classes == {"cat": 0, "dog": 1}


def test_classes_of_equal_name_are_counted_apart():
    source = ArraySource(np.zeros((3, 4, 4, 3), np.uint8), np.array([0, 1, 1]), ("crane", "crane"))
    scanned = scan_images({"train": source}, 0, Reporter(active=False))
    counts = statistics.split_statistics(scanned)["train"].classes
    assert counts == {"crane (label 0)": 1, "crane (label 1)": 2}


def test_split_without_readable_images_has_no_sizes(folder, noise):
    val = statistics.split_statistics(scan(folder({"train/cat/a.png": noise(), "val/cat/b.png": b""})))["val"]
    assert (val.examples, val.unreadable, val.smallest, val.sizes) == (1, 1, None, 0)


def test_count_smaller_compares_the_short_side(folder, noise):
    scanned = scan(folder({"cat/a.png": noise(10, 50), "cat/b.png": noise(50, 11), "cat/c.png": b""}))
    assert statistics.count_smaller(scanned, [10, 11, 12]) == {10: 0, 11: 1, 12: 2}


def test_channel_statistics_use_all_pixels(folder, noise):
    images = {"cat/a.png": noise(10, 20), "cat/b.png": noise(3, 4) // 2, "cat/c.png": b""}
    scanned = scan(folder(images))
    mean, std = statistics.channel_statistics(scanned, np.arange(3))
    pixels = np.concatenate([image.reshape(-1, 3) for name, image in images.items() if name != "cat/c.png"]) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-12)


def test_channel_statistics_equal_those_of_a_run():
    sources = open_sources("digits")
    scanned = scan_images(sources, 0, Reporter(active=False))
    mean, std = statistics.channel_statistics(scanned, scanned.positions("train"))
    expected_mean, expected_std = preprocess.channel_statistics(sources["train"].images)
    assert mean == pytest.approx(expected_mean, rel=1e-12)
    assert std == pytest.approx(expected_std, rel=1e-12)


def test_constant_image_has_std_one(folder):
    scanned = scan(folder({"cat/a.png": np.full((4, 4, 3), 51, np.uint8)}))
    assert statistics.channel_statistics(scanned, np.arange(1)) == (pytest.approx((0.2, 0.2, 0.2)), (1.0, 1.0, 1.0))


def test_repeated_groups_contain_identical_images(folder, noise):
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
    scanned = scan(folder(files))
    groups = [statistics.describe_repeated(scanned, group) for group in statistics.repeated_groups(scanned)]
    copies = {
        frozenset(zip([name.rpartition("/")[2] for name in group.names], group.splits, group.labels, strict=True))
        for group in groups
    }
    assert copies == {
        frozenset({("twice.png", "train", "cat"), ("again.png", "val", "cat")}),
        frozenset({("one.png", "train", "cat"), ("two.png", "train", "dog"), ("three.png", "train", "dog")}),
    }
