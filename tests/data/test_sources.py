import pickle

import numpy as np
import pytest

from resnet_jax.data import sources
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.errors import UserError


def test_digits_have_known_sizes():
    dataset = open_sources("digits")
    assert {name: len(source) for name, source in dataset.items()} == {"train": 1438, "test": 359}
    image, label = dataset["train"][0]
    assert (image.shape, image.dtype) == ((8, 8, 1), np.uint8)
    assert dataset["train"].classes == tuple("0123456789")
    assert max(dataset["train"][index][0].max() for index in range(100)) == 255
    assert 0 <= label < 10


def test_digits_splits_are_disjoint_and_complete():
    from sklearn.datasets import load_digits

    dataset = open_sources("digits")
    images = [dataset[name][i][0].tobytes() for name in dataset for i in range(len(dataset[name]))]
    assert len(images) == len(load_digits().target)
    expected = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    assert sorted(images) == sorted(image.tobytes() for image in expected)


def test_digits_test_split_has_a_fifth_of_each_class():
    dataset = open_sources("digits")
    train, test = (np.bincount(dataset[name].labels, minlength=10) for name in ("train", "test"))
    assert np.abs(test - (train + test) / 5).max() <= 0.5


def test_array_source_can_be_pickled():
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    source = pickle.loads(pickle.dumps(ArraySource(images, np.array([1, 0]), ["a", "b"])))
    assert (len(source), source.classes, source.labels.tolist()) == (2, ("a", "b"), [1, 0])
    image, label = source[1]
    np.testing.assert_array_equal(image, images[1])
    assert (label, type(label)) == (0, int)


@pytest.mark.parametrize(
    ("name", "opened"),
    [("folder:/pets", ("folder", "folder:/pets", "/data")), ("cifar10", ("tfds", "cifar10", "/data"))],
)
def test_dataset_name_selects_the_source(monkeypatch, name, opened):
    monkeypatch.setattr(sources, "open_folder", lambda *arguments: ("folder", *arguments))
    monkeypatch.setattr(sources, "open_tfds", lambda *arguments: ("tfds", *arguments))
    assert open_sources(name, "/data") == opened


def test_missing_folder_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*/nowhere"):
        open_sources(f"folder:{tmp_path}/nowhere")


def test_array_source_content_digest_changes_with_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (2500, 4, 4, 3), np.uint8)
    labels = np.zeros(2500, int)
    digest = ArraySource(images, labels, ["a"]).content_digest
    assert digest == ArraySource(images.copy(), labels, ["a"]).content_digest
    assert digest != ArraySource(images[:, ::-1], labels, ["a"]).content_digest
