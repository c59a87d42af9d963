import json
import os
import pickle
import shutil
import sys

import numpy as np
import pytest

from resnet_jax.data import tfds
from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter


def read(dataset, split):
    return read_examples(Subset.of(dataset, split), Reporter(active=False, max_unreadable=0))


@pytest.fixture
def offline(monkeypatch):
    """No host can be reached, and no proxy is set."""

    def refuse(*arguments, **keywords):
        raise OSError("no route to host")

    monkeypatch.setattr(tfds.socket, "create_connection", refuse)
    monkeypatch.setattr(tfds.urllib.request, "getproxies", dict)


@pytest.mark.parametrize("name", ["cifar11", "CIFAR-10", "cifar10/v2", "cifar10:9.9.9"])
def test_an_unknown_name_gives_the_nearest(name, tmp_path):
    with pytest.raises(UserError, match=rf"unknown data set '{name}'. Did you mean .*cifar10"):
        open_sources(name, str(tmp_path))


@pytest.mark.parametrize("name", ["", "a b"])
def test_names_that_are_none_are_refused(name, tmp_path):
    with pytest.raises(UserError, match="unknown data set"):
        open_sources(name, str(tmp_path))


def test_a_set_that_is_not_of_labelled_pictures_is_refused(tmp_path):
    with pytest.raises(UserError, match="not for image classification"):
        open_sources("ag_news_subset", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("cifar10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"),
        ("emnist/letters", "gzip.zip"),
        ("svhn_cropped", "http://ufldl.stanford.edu/housenumbers/train_32x32.mat"),
    ],
)
def test_without_a_network_it_says_what_to_download_and_where_to_put_it(tmp_path, offline, name, url):
    with pytest.raises(UserError) as error:
        open_sources(name, str(tmp_path))
    assert url in str(error.value)
    assert f"into the folder {tmp_path / 'downloads' / 'manual'}" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_lies_there_already_need_not_be_downloaded(tmp_path, offline):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "train_32x32.mat").touch()
    with pytest.raises(UserError, match="cannot be reached") as error:
        open_sources("svhn_cropped", str(tmp_path))
    assert "test_32x32.mat" in str(error.value)
    assert "train_32x32.mat" not in str(error.value)


def test_pictures_of_many_sizes_are_no_reason_to_refuse_a_set_and_without_tensorflow_it_is_not_prepared(
    tmp_path, offline, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"'imagenet2012' is not in .* needs TensorFlow: pip install tensorflow-cpu"):
        open_sources("imagenet2012", str(tmp_path))


class FailingBuilder:
    """A set of TFDS's whose preparation fails."""

    name = "pets"

    def __init__(self, root, instructions):
        self.data_dir_root, self.url_infos = root, {}
        self.MANUAL_DOWNLOAD_INSTRUCTIONS = instructions

    def download_and_prepare(self):
        raise AssertionError("The manual directory\n\nis empty")


@pytest.mark.parametrize(
    ("instructions", "advice"),
    [
        (
            "Register at pets.org,\n  and put it into manual_dir.",
            "Register at pets.org, and put it into manual_dir. Here",
        ),
        (None, "https://www.tensorflow.org/datasets/catalog/pets says what to put into the folder"),
    ],
)
def test_a_set_that_cannot_be_prepared_says_why_and_what_to_do(tmp_path, monkeypatch, instructions, advice):
    monkeypatch.setitem(sys.modules, "tensorflow", sys)  # It is not needed here, and takes seconds.
    with pytest.raises(UserError) as error:
        tfds._prepare(FailingBuilder(tmp_path, instructions))
    assert f"'pets' could not be prepared in {tmp_path} (The manual directory): {advice}" in str(error.value)
    assert str(tmp_path / "downloads" / "manual") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_set_prepared_as_tfrecord_is_refused_with_a_way_on(tmp_path):
    """As TFDS prepares sets by default; what tells so is a small file."""
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    info = {"name": "mnist", "version": "3.0.1", "fileFormat": "tfrecord", "splits": []}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=rf"prepared as tfrecord.* convert --dataset=mnist --data_dir={tmp_path} --to="):
        open_sources("mnist", str(tmp_path))


class TestCifar10:
    @pytest.fixture(scope="class")
    def dataset(self, test_data):
        return open_sources("cifar10", str(test_data / "tfds"))

    def test_is_read_without_preparing_it(self, dataset):
        assert {name: len(source) for name, source in dataset.items()} == {"train": 50_000, "test": 10_000}
        assert dataset["test"].classes[:3] == ("airplane", "automobile", "bird")
        assert dataset["test"].channels == 3

    def test_pictures_come_encoded_and_are_those_that_tfds_decodes(self, dataset, test_data):
        import tensorflow_datasets

        examples = read(dataset, "test[:200]")
        assert examples.images.shape == (200, 32, 32, 3)
        assert all(isinstance(dataset["test"][index][0], bytes) for index in (0, 199))
        builder = tensorflow_datasets.builder("cifar10", data_dir=test_data / "tfds", file_format="array_record")
        decoded = builder.as_data_source(split="test")
        for index in (0, 100, 199):
            np.testing.assert_array_equal(examples.images[index], decoded[index]["image"])
            assert examples.labels[index] == decoded[index]["label"] == dataset["test"][index][1]

    def test_can_be_read_in_other_processes(self, dataset):
        copy = pickle.loads(pickle.dumps(dataset["test"]))
        assert copy[17] == dataset["test"][17]


@pytest.mark.slow
def test_mnist_is_prepared_from_files_put_there_by_hand(test_data, tmp_path):
    """Runs TFDS's own preparation, checksums included, and needs TensorFlow for it."""
    pytest.importorskip("tensorflow")
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for path in (test_data / "mnist").iterdir():
        shutil.copy(path, manual)
    dataset = open_sources("mnist", str(tmp_path))
    assert {name: len(source) for name, source in dataset.items()} == {"train": 60_000, "test": 10_000}
    assert dataset["test"].channels == 1
    test = read(dataset, "test")
    assert test.images.shape == (10_000, 28, 28, 1)
    # Of the official files: 980 zeros ... 1,009 nines, mean grey level 33.79.
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test.images.mean() == pytest.approx(33.7912, abs=1e-3)
    assert os.listdir(tmp_path / "mnist")
