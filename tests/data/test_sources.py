import json
import os
import shutil

import numpy as np
import pytest

from resnet_jax.data import sources
from resnet_jax.data.examples import read_split
from resnet_jax.errors import UserError


def test_digits():
    dataset = sources.open_dataset("digits")
    assert {name: len(source) for name, source in dataset.items()} == {"train": 1438, "test": 359}
    image, label = dataset["train"][0]
    assert (image.shape, image.dtype) == ((8, 8, 1), np.uint8)
    assert dataset["train"].classes == tuple("0123456789")
    assert max(dataset["train"][index][0].max() for index in range(100)) == 255
    assert 0 <= label < 10


def test_digits_splits_share_nothing_and_miss_nothing():
    from sklearn.datasets import load_digits

    dataset = sources.open_dataset("digits")
    pictures = [dataset[name][i][0].tobytes() for name in dataset for i in range(len(dataset[name]))]
    assert len(pictures) == len(load_digits().target)
    assert len(set(pictures)) == len({(image * 16).astype(int).tobytes() for image in load_digits().images})


@pytest.mark.parametrize("name", ["cifar11", "CIFAR-10", "cifar10/v2", "cifar10:9.9.9"])
def test_unknown_name_gives_the_nearest(name, tmp_path):
    with pytest.raises(UserError, match=rf"unknown data set '{name}': did you mean .*cifar10"):
        sources.open_dataset(name, str(tmp_path))


def test_names_that_are_none_are_refused(tmp_path):
    for name in ("", "a b", "folder:/tmp"):
        with pytest.raises(UserError, match="unknown data set"):
            sources.open_dataset(name, str(tmp_path))


def test_a_set_that_is_not_of_labelled_pictures_is_refused(tmp_path):
    with pytest.raises(UserError, match="not for image classification"):
        sources.open_dataset("ag_news_subset", str(tmp_path))


def test_pictures_of_many_sizes_are_refused(tmp_path):
    with pytest.raises(UserError, match="differ in size"):
        sources.open_dataset("imagenet2012", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("cifar10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"),
        ("emnist/letters", "gzip.zip"),
        ("svhn_cropped", "http://ufldl.stanford.edu/housenumbers/train_32x32.mat"),
    ],
)
def test_without_a_network_it_says_what_to_download_and_where_to_put_it(tmp_path, monkeypatch, name, url):
    def refuse(*arguments, **keywords):
        raise OSError("no route to host")

    monkeypatch.setattr(sources.socket, "create_connection", refuse)
    monkeypatch.setattr(sources.urllib.request, "getproxies", dict)
    with pytest.raises(UserError) as error:
        sources.open_dataset(name, str(tmp_path))
    assert url in str(error.value)
    assert f"into the folder {tmp_path / 'downloads' / 'manual'}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_set_prepared_as_tfrecord_is_refused_with_a_way_on(tmp_path):
    """As TFDS prepares sets by default; what tells so is a small file."""
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    info = {"name": "mnist", "version": "3.0.1", "fileFormat": "tfrecord", "splits": []}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="prepared as tfrecord"):
        sources.open_dataset("mnist", str(tmp_path))


def test_cifar10_is_read_without_preparing_it(test_data):
    dataset = sources.open_dataset("cifar10", str(test_data / "tfds"))
    assert {name: len(source) for name, source in dataset.items()} == {"train": 50_000, "test": 10_000}
    assert dataset["test"].classes[:3] == ("airplane", "automobile", "bird")
    examples = read_split(dataset, "test[:1000]")
    assert examples.images.shape == (1000, 32, 32, 3)
    one_by_one = [dataset["test"][index] for index in (0, 500, 999)]
    np.testing.assert_array_equal(examples.images[[0, 500, 999]], np.stack([image for image, _ in one_by_one]))
    assert examples.labels[[0, 500, 999]].tolist() == [label for _, label in one_by_one]


@pytest.mark.slow
def test_mnist_is_prepared_from_files_put_there_by_hand(test_data, tmp_path):
    """Runs TFDS's own preparation, checksums included, and needs TensorFlow for it."""
    pytest.importorskip("tensorflow")
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for path in (test_data / "mnist").iterdir():
        shutil.copy(path, manual)
    dataset = sources.open_dataset("mnist", str(tmp_path))
    assert {name: len(source) for name, source in dataset.items()} == {"train": 60_000, "test": 10_000}
    test = read_split(dataset, "test")
    assert test.images.shape == (10_000, 28, 28, 1)
    # Of the official files: 980 zeros ... 1,009 nines, mean grey level 33.79.
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test.images.mean() == pytest.approx(33.7912, abs=1e-3)
    assert os.listdir(tmp_path / "mnist")
