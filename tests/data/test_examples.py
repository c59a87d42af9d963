import numpy as np
import pytest

from resnet_jax import config as settings
from resnet_jax.data.examples import read_split, read_training
from resnet_jax.data.sources import ArraySource
from resnet_jax.errors import UserError


class OwnSource:
    """A user's source: the protocol and nothing else."""

    classes = ("cat", "dog")

    def __init__(self, size, first=0):
        self._size, self._first = size, first

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        return np.full((4, 4, 3), self._first + index, np.uint8), index % 2


def dataset_settings(**changed):
    dataset = settings.default().dataset
    dataset.update(changed)
    return dataset


def test_reads_what_the_split_names_in_order():
    told = []
    examples = read_split(
        {"train": OwnSource(100), "test": OwnSource(50, first=100)},
        "test[:3]+train[10:12]",
        lambda done, total: told.append((done, total)),
    )
    assert examples.images[:, 0, 0, 0].tolist() == [100, 101, 102, 10, 11]
    assert examples.labels.tolist() == [0, 1, 0, 0, 1]
    assert told == [(3, 5), (5, 5)]


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), 0, r"train\[1\] is float32 \[4, 4, 3\]"),
        (np.zeros((4, 4), np.uint8), 0, r"train\[1\] is uint8 \[4, 4\]"),
        (np.zeros((5, 4, 3), np.uint8), 0, r"train\[1\] has shape \[5, 4, 3\], others have \[4, 4, 3\]"),
        (np.zeros((4, 4, 3), np.uint8), 2, r"train\[1\] has label 2, which is none of the 2 classes"),
    ],
)
def test_a_bad_example_is_named(image, label, message):
    class Bad(OwnSource):
        def __getitem__(self, index):
            return (image, label) if index == 1 else super().__getitem__(index)

    with pytest.raises(UserError, match=message):
        read_split({"train": Bad(3)}, "train")


def test_a_tenth_of_each_class_is_held_out_by_default():
    sources = {"train": OwnSource(200), "test": OwnSource(10)}
    train, validation = read_training(dataset_settings(), sources)
    assert (len(train), len(validation)) == (180, 20)
    assert np.bincount(validation.labels).tolist() == [10, 10]
    together = np.concatenate([train.images, validation.images])[:, 0, 0, 0]
    assert sorted(together.tolist()) == list(range(200))


def test_a_named_validation_split_is_read_and_none_is_none():
    sources = {"train": OwnSource(200), "test": OwnSource(10)}
    named = dataset_settings(train_split="train[:150]", validation_split="train[150:]")
    train, validation = read_training(named, sources)
    assert (len(train), len(validation)) == (150, 50)
    train, validation = read_training(dataset_settings(validation_split="none"), sources)
    assert (len(train), validation) == (200, None)


@pytest.mark.parametrize("changed", [{"validation_split": "train[90%:]"}, {"test_split": "train[:10]"}])
def test_splits_that_share_examples_are_refused(changed):
    with pytest.raises(UserError, match="share"):
        read_training(dataset_settings(**changed), {"train": OwnSource(200), "test": OwnSource(10)})


def test_too_few_to_hold_out_is_said():
    with pytest.raises(UserError, match="too few to hold out a tenth"):
        read_training(dataset_settings(), {"train": OwnSource(4), "test": OwnSource(2)})


def test_arrays_are_a_source():
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    examples = read_split({"train": ArraySource(images, np.array([1, 0]), ["a", "b"])}, "train")
    np.testing.assert_array_equal(examples.images, images)
    assert examples.labels.tolist() == [1, 0]
