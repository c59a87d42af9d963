import json
import os
import pickle
import shutil
import sys
import threading
import time
import types

import numpy as np
import pytest

from resnet_jax.data import tfds
from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter


def read(dataset, split):
    return read_examples(Subset.from_split(dataset, split), Reporter(active=False, max_unreadable=0))


@pytest.fixture
def offline(monkeypatch):
    """Make all hosts unreachable, and let no proxy be configured."""

    def refuse(*arguments, **keywords):
        raise OSError("no route to host")

    monkeypatch.setattr(tfds.socket, "create_connection", refuse)
    monkeypatch.setattr(tfds.urllib.request, "getproxies", dict)


@pytest.mark.parametrize("name", ["cifar11", "CIFAR-10", "cifar10/v2", "cifar10:9.9.9"])
def test_unknown_name_suggests_the_nearest(name, tmp_path):
    with pytest.raises(UserError, match=rf"unknown dataset '{name}'\. Did you mean .*cifar10"):
        open_sources(name, str(tmp_path))


@pytest.mark.parametrize(
    ("data_dir", "problem"),
    [("data[1]", "contains '\\['"), ("a**b", "contains '\\*'"), ("\udcff", "is not UTF-8"), ("", "is empty")],
)
def test_directory_that_tfds_would_misread_is_refused(data_dir, problem):
    with pytest.raises(UserError, match=rf"the path of the TFDS datasets .*{problem}"):
        open_sources("cifar10", data_dir)


def test_empty_tfds_data_dir_is_refused(monkeypatch):
    """TFDS would prepare the dataset in the current directory."""
    monkeypatch.setenv("TFDS_DATA_DIR", "")
    with pytest.raises(UserError, match="the path of the TFDS datasets is empty"):
        open_sources("cifar10")


@pytest.mark.parametrize("name", ["", "a b"])
def test_invalid_name_is_rejected(name, tmp_path):
    with pytest.raises(UserError, match="unknown dataset"):
        open_sources(name, str(tmp_path))


@pytest.mark.parametrize("name", ["/data/pets", "./pets", "~/pets", "pets", "imagefolder:pets"])
def test_path_without_prefix_is_rejected_with_the_prefix(name, tmp_path, monkeypatch):
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    path = name.removeprefix("imagefolder:")
    with pytest.raises(UserError, match=rf"unknown dataset '{name}'. To use a folder of images, write folder:{path}\."):
        open_sources(name)


def test_dataset_without_labeled_images_is_rejected(tmp_path):
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
def test_unreachable_host_is_reported_with_what_to_download_and_where_to_put_it(tmp_path, offline, name, url):
    with pytest.raises(UserError) as error:
        open_sources(name, str(tmp_path))
    assert url in str(error.value)
    assert f"to {tmp_path / 'downloads' / 'manual'}, without unpacking" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data_dir", ["tfds/mnist", "tfds/mnist/3.0.1", "."])
def test_data_dir_at_the_wrong_level_is_rejected_with_the_right_one(tmp_path, data_dir):
    version = tmp_path / "tfds" / "mnist" / "3.0.1"
    version.mkdir(parents=True)
    (version / "dataset_info.json").touch()
    with pytest.raises(UserError, match=rf"'mnist' is not in .*, but in {tmp_path}/tfds. Set TFDS_DATA_DIR"):
        open_sources("mnist", str(tmp_path / data_dir))


def test_files_that_exist_need_not_be_downloaded(tmp_path, offline):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "train_32x32.mat").touch()
    with pytest.raises(UserError, match="cannot be reached") as error:
        open_sources("svhn_cropped", str(tmp_path))
    assert "test_32x32.mat" in str(error.value)
    assert "train_32x32.mat" not in str(error.value)


def test_dataset_with_images_of_many_sizes_is_accepted_but_not_prepared_without_tensorflow(
    tmp_path, offline, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(
        UserError, match=r"'imagenet2012' is not in .* needs TensorFlow, which is not installed.*\[tfds\]"
    ):
        open_sources("imagenet2012", str(tmp_path))


class FailingBuilder:
    """A TFDS dataset whose preparation fails."""

    name = "pets"

    def __init__(self, root, instructions):
        self.data_dir_root, self.data_dir, self.url_infos = root, root / "pets" / "1.0.0", {}
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
        (None, "https://www.tensorflow.org/datasets/catalog/pets describes what to put into"),
    ],
)
def test_failed_preparation_is_reported_with_the_reason_and_the_remedy(tmp_path, monkeypatch, instructions, advice):
    monkeypatch.setitem(sys.modules, "tensorflow", sys)  # TensorFlow is not needed here, and its import takes seconds.
    with pytest.raises(UserError) as error:
        tfds._prepare(FailingBuilder(tmp_path, instructions))
    assert f"'pets' could not be prepared in {tmp_path} (The manual directory). {advice}" in str(error.value)
    assert str(tmp_path / "downloads" / "manual") in str(error.value)
    assert "\n" not in str(error.value)


def test_dataset_prepared_as_tfrecord_is_rejected_with_the_remedy(tmp_path):
    """TFDS prepares tfrecord by default, and records the format in a small file."""
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    info = {"name": "mnist", "version": "3.0.1", "fileFormat": "tfrecord", "splits": []}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=rf"prepared as tfrecord.* convert --dataset=mnist --data_dir={tmp_path} --to="):
        open_sources("mnist", str(tmp_path))


class TestCifar10:
    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls, test_data):
        return open_sources("cifar10", str(test_data / "tfds"))

    def test_prepared_dataset_is_read(self, dataset):
        assert {name: len(source) for name, source in dataset.items()} == {"train": 50_000, "test": 10_000}
        assert dataset["test"].classes[:3] == ("airplane", "automobile", "bird")
        assert dataset["test"].channels == 3

    def test_images_are_encoded_and_decode_as_in_tfds(self, dataset, test_data):
        import tensorflow_datasets

        examples = read(dataset, "test[:200]")
        assert examples.images.shape == (200, 32, 32, 3)
        assert all(isinstance(dataset["test"][index][0], bytes) for index in (0, 199))
        builder = tensorflow_datasets.builder("cifar10", data_dir=test_data / "tfds", file_format="array_record")
        decoded = builder.as_data_source(split="test")
        for index in (0, 100, 199):
            np.testing.assert_array_equal(examples.images[index], decoded[index]["image"])
            assert examples.labels[index] == decoded[index]["label"] == dataset["test"][index][1]

    def test_content_digest_has_the_version_and_the_files_but_not_the_path(self, dataset, test_data):
        digest = dataset["test"].content_digest
        assert digest.startswith("cifar10/3.0.2 test cifar10-test.array_record-00000-of-00001 ")
        assert str(test_data) not in digest

    def test_source_can_be_pickled(self, dataset):
        copy = pickle.loads(pickle.dumps(dataset["test"]))
        assert copy[17] == dataset["test"][17]


@pytest.mark.slow
def test_mnist_is_prepared_from_manually_downloaded_files(test_data, tmp_path):
    """Run TFDS's own preparation with its checksums. This needs TensorFlow."""
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
    # Known for the official files: 980 zeros ... 1,009 nines, mean gray level 33.79.
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test.images.mean() == pytest.approx(33.7912, abs=1e-3)
    assert os.listdir(tmp_path / "mnist")


def test_dataset_is_prepared_once_by_processes_that_start_together(tmp_path, monkeypatch):
    prepared = []

    class Builder:
        data_dir_root = tmp_path / "data"
        info = types.SimpleNamespace(splits=())

        def is_prepared(self):
            return bool(prepared)

    def prepare(builder):
        time.sleep(0.2)
        prepared.append(builder)

    monkeypatch.setattr(tfds, "_builder", lambda *_: Builder())
    monkeypatch.setattr(tfds, "_prepare", prepare)
    threads = [threading.Thread(target=tfds.open_tfds, args=("cifar10", None)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(prepared) == 1
