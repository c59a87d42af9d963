import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import sources
from resnet_jax.data.dataset import common_classes
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.in_memory import read_examples
from resnet_jax.data.sources import (
    EXAMPLE,
    ArraySource,
    WithoutLabels,
    as_example,
    canonical_data_dir,
    check_sources,
    open_sources,
)
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter

PIXELS = np.zeros((4, 6, 3), np.uint8)


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


@pytest.mark.parametrize("name", ["folder:/pets", "csv:/pets.csv", "multi_label_folder:/pets", "cifar10"])
def test_dataset_name_selects_the_source(monkeypatch, name):
    for prefix in sources.LOCAL_DATASETS:
        monkeypatch.setitem(sources.LOCAL_DATASETS, prefix, lambda *args, prefix=prefix: (prefix, *args))
    monkeypatch.setattr(sources, "open_tfds", lambda *args: ("tfds", *args))
    opener = f"{name.partition(':')[0]}:" if ":" in name else "tfds"
    assert open_sources(name, "/data") == (opener, name, "/data")


def test_missing_folder_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*/nowhere"):
        open_sources(f"folder:{tmp_path}/nowhere")


def test_array_source_content_digest_changes_with_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (2500, 4, 4, 3), np.uint8)
    labels = np.zeros(2500, int)
    digest = ArraySource(images, labels, ["a"]).content_digest
    assert digest == ArraySource(images.copy(), labels, ["a"]).content_digest
    assert digest != ArraySource(images[:, ::-1], labels, ["a"]).content_digest


@pytest.mark.parametrize("label", [1, True, np.True_, np.uint8(1), 1.0, np.array(1), np.array([1]), jnp.array(1)])
def test_label_may_be_any_whole_number(label):
    image, number = as_example((PIXELS, label), "train[7]")
    assert image is PIXELS
    assert (number, type(number)) == (1, int)


@pytest.mark.parametrize("image", [b"a file", PIXELS, PIXELS[..., :1], jnp.array(PIXELS)])
def test_image_may_be_a_file_or_an_array(image):
    expected = image if isinstance(image, bytes) else np.asarray(image)
    np.testing.assert_array_equal(as_example([image, 1], "train[7]")[0], expected)


@pytest.mark.parametrize(
    ("example", "problem"),
    [
        (PIXELS, "is not an example (uint8 [4, 6, 3])"),
        (None, "is not an example (NoneType)"),
        ({"image": PIXELS, "label": 1}, "is not an example (dict)"),
        ((PIXELS, 1, 0.5), "is not an example (tuple)"),
        ((1, PIXELS), "has an image of the wrong kind (int)"),
        ((PIXELS[..., 0], 1), "has an image of the wrong kind (uint8 [4, 6])"),
        ((np.zeros((3, 32, 32), np.uint8), 1), "has an image of the wrong kind (uint8 [3, 32, 32])"),
        ((np.zeros((4, 6, 4), np.uint8), 1), "has an image of the wrong kind (uint8 [4, 6, 4])"),
        ((PIXELS[:0], 1), "has an image of the wrong kind (uint8 [0, 6, 3])"),
        ((PIXELS / 255, 1), "has an image of the wrong kind (float64 [4, 6, 3])"),
        ((PIXELS.tolist(), 1), "has an image of the wrong kind (list)"),
        ((Image.fromarray(PIXELS), 1), "has an image of the wrong kind (Image)"),
        (("cat.jpg", 1), "has an image of the wrong kind (str)"),
        ((None, 1), "has an image of the wrong kind (NoneType)"),
        ((PIXELS, np.eye(10)[1]), "has a label of the wrong kind (float64 [10])"),
        ((PIXELS, [0, 1, 0]), "has a label of the wrong kind (list)"),
        ((PIXELS, 1.5), "has a label of the wrong kind (float)"),
        ((PIXELS, "cat"), "has a label of the wrong kind (str)"),
        ((PIXELS, None), "has a label of the wrong kind (NoneType)"),
    ],
)
def test_wrong_example_is_described(example, problem):
    with pytest.raises(UserError) as error:
        as_example(example, "train[7]")
    assert str(error.value) == f"train[7] {problem}. {EXAMPLE}"


class SourceWith:
    """A source of one example with other members than it should have."""

    classes = ("cat", "dog")

    def __init__(self, **members):
        vars(self).update(members)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return PIXELS, 1


@pytest.mark.parametrize(
    ("dataset", "problem"),
    [
        ({}, r"the sources \(dict\) must be a dict of splits by name\. Pass, for example, {'train': source}"),
        ({0: SourceWith()}, r"the sources \(dict\) must be a dict of splits by name"),
        (SourceWith(), r"the sources \(SourceWith\) must be a dict of splits"),
        ({"train": [(PIXELS, 1)]}, r"the split 'train' \(list\) is not a source: it has no classes\. For arrays, use"),
        ({"train": iter([])}, "it has no classes and no __len__ and no __getitem__"),
        ({"train": SourceWith(classes=None)}, r"the classes of a source \(NoneType\) must be a list of names"),
        ({"train": SourceWith(classes=2)}, r"the classes of a source \(int\) must be a list of names"),
        ({"train": SourceWith(classes={"cat": 0})}, r"the classes of a source \(dict\) must be a list of names"),
        ({"train": SourceWith(classes={"cat", "dog"})}, r"the classes of a source \(set\) must be a list of names"),
        ({"train": SourceWith(classes=[])}, r"the classes of a source \(list\) must be a list of names"),
        (
            {"train": SourceWith(labels=np.eye(2)[:1])},
            r"the labels of a source \(float64 \[1, 2\]\) must be integers \[1\]",
        ),
        ({"train": SourceWith(labels=[0, 1])}, r"the labels of a source \(int64 \[2\]\) must be integers \[1\]"),
        ({"train": SourceWith(channels=4)}, r"the channels of a source \(4\) must be 3 for color or 1"),
        ({"train": SourceWith(labels=["cat"])}, r"the labels of a source \(<U3 \[1\]\) must be integers \[1\]"),
    ],
)
def test_wrong_source_is_described(dataset, problem):
    with pytest.raises(UserError, match=problem):
        check_sources(dataset)


@pytest.mark.parametrize("labels", [np.eye(2), [0, 1, 0], [0.5, 1.0], ["cat", "dog"], None])
def test_array_source_rejects_labels_that_are_not_one_integer_per_image(labels):
    with pytest.raises(UserError, match=r"the labels of a source .* must be integers"):
        ArraySource(np.zeros((2, 4, 6, 3), np.uint8), labels, ["cat", "dog"])


def test_array_source_may_hold_images_of_several_shapes():
    source = ArraySource([PIXELS, PIXELS[:2]], [0, 1], ["cat", "dog"])
    assert [source[index][0].shape for index in range(2)] == [(4, 6, 3), (2, 6, 3)]
    assert source.content_digest != ArraySource([PIXELS, PIXELS[:3]], [0, 1], ["cat", "dog"]).content_digest


def test_array_source_accepts_labels_in_a_column():
    """As in `keras.datasets`."""
    source = ArraySource(np.zeros((2, 4, 6, 3), np.uint8), np.array([[1], [0]]), ["cat", "dog"])
    assert [source[index][1] for index in range(2)] == [1, 0]


@pytest.mark.parametrize("classes", [[0, 1], range(2), np.arange(2), ("0", "1")])
def test_class_names_are_strings(classes):
    """The names of a run are read from JSON. A resumed run compares them with those of its source."""
    assert common_classes({"train": SourceWith(classes=classes)}) == ("0", "1")


def test_local_data_dir_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert canonical_data_dir("tfds") == f"{tmp_path}/tfds"
    assert canonical_data_dir("~/tfds") == "/home/me/tfds"
    assert canonical_data_dir("gs://bucket/tfds") == "gs://bucket/tfds"
    assert canonical_data_dir(None) is None


class SecondUnreadable(ArraySource):
    def __getitem__(self, index):
        if index == 1:
            raise Unreadable("it is wet")
        return super().__getitem__(index)


def test_unreadable_image_without_labels_is_skipped():
    source = WithoutLabels(SecondUnreadable(np.zeros((3, 4, 4, 3), np.uint8), np.arange(3), ("a", "b", "c")))
    reporter = Reporter(active=False, max_unreadable=1)
    examples = read_examples(Subset.from_split({"train": pickle.loads(pickle.dumps(source))}, "train"), reporter)
    assert examples.labels.tolist() == [0, 0]
    assert len(reporter.unreadable) == 1
