import io

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.decode import Unreadable
from resnet_jax.data.sources import ArraySource
from resnet_jax.data.subset import MAX_SHAPES_READ, NO_LABEL, READ_AT_ONCE, Subset
from resnet_jax.errors import UserError
from tests.recording_reporter import RecordingReporter


class OwnSource:
    """A minimal user-defined source. The color of each image is its number."""

    classes = ("cat", "dog")

    def __init__(self, size, first=0):
        self._size, self._first = size, first

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        return np.full((4, 4, 3), (self._first + index) % 256, np.uint8), index % 2


class DamagedSource(OwnSource):
    """A source whose second image cannot be read."""

    def __getitem__(self, index):
        if index == 1:
            raise Unreadable("it is wet")
        return super().__getitem__(index)


class ListedSource(OwnSource):
    """A source that lists its labels and names its examples, and must not be read."""

    channels = 1

    @property
    def labels(self):
        return np.arange(len(self)) % 2

    def name(self, index):
        return f"/pets/{index}.jpg"

    def __getitem__(self, index):
        raise AssertionError("read although the labels are listed")


class BulkSource(OwnSource):
    """A source that reads several examples at once, and records which."""

    def __init__(self, size, first=0):
        super().__init__(size, first)
        self.requested = []

    def __getitems__(self, indices):
        self.requested.append(list(indices))
        return [super(BulkSource, self).__getitem__(index) for index in indices]

    def __getitem__(self, index):
        raise AssertionError("read one at a time")


def colors(subset):
    return [int(image[0, 0, 0]) for _, image, _ in subset.read()]


def test_subset_has_the_order_of_its_split():
    subset = Subset.from_split({"train": OwnSource(100), "test": OwnSource(50, first=100)}, "test[:3]+train[10:12]")
    assert len(subset) == 5
    assert colors(subset) == [100, 101, 102, 10, 11]
    assert [int(subset[position][0][0, 0, 0]) for position in range(5)] == [100, 101, 102, 10, 11]
    assert [subset[position][1] for position in range(5)] == [0, 1, 0, 0, 1]
    assert [subset.name(position) for position in (0, 2, 3)] == ["test[0]", "test[2]", "train[10]"]


def test_take_can_be_repeated():
    subset = Subset.from_split({"train": OwnSource(100)}, "train[50:]").take(np.array([3, 1])).take(np.array([1, 0, 1]))
    assert colors(subset) == [51, 53, 51]
    assert subset.name(1) == "train[53]"


def test_names_are_those_of_the_source():
    subset = Subset.from_split({"train": ListedSource(10), "val": OwnSource(3)}, "train[4:5]+val[2:]")
    assert [subset.name(0), subset.name(1)] == ["/pets/4.jpg", "val[2]"]


@pytest.mark.parametrize(("source", "channels"), [(OwnSource(3), 3), (ListedSource(3), 1)])
def test_classes_and_channels_are_those_of_the_source(source, channels):
    subset = Subset.from_split({"train": source}, "train")
    assert (subset.classes, subset.channels) == (("cat", "dog"), channels)


def test_unknown_split_is_rejected():
    with pytest.raises(UserError, match=r"unknown split 'trian'\. Did you mean train"):
        Subset.from_split({"train": OwnSource(3)}, "trian")


class TestRead:
    def test_read_reports_progress(self):
        reporter = RecordingReporter()
        subset = Subset.from_split({"train": OwnSource(READ_AT_ONCE + 5)}, "train")
        assert len(list(subset.read(reporter, "cats"))) == READ_AT_ONCE + 5
        total = READ_AT_ONCE + 5
        assert reporter.progress == [("reading cats", READ_AT_ONCE, total), ("reading cats", total, total)]

    def test_unreadable_image_comes_with_the_reason_and_without_a_label(self):
        read = list(Subset.from_split({"train": DamagedSource(3)}, "train").read())
        assert [position for position, _, _ in read] == [0, 1, 2]
        assert str(read[1][1]) == "it is wet"
        assert [label for _, _, label in read] == [0, NO_LABEL, 0]

    def test_read_requests_several_examples_at_once_if_the_source_supports_it(self):
        train, test = BulkSource(READ_AT_ONCE + 50), BulkSource(10)
        subset = Subset.from_split({"train": train, "test": test}, f"train[:{READ_AT_ONCE}]+test[:2]")
        assert len(list(subset.read())) == READ_AT_ONCE + 2
        assert (train.requested, test.requested) == ([list(range(READ_AT_ONCE))], [[0, 1]])

    def test_read_keeps_sources_apart(self):
        sources = {"train": BulkSource(9), "test": OwnSource(9, first=100)}
        assert colors(Subset.from_split(sources, "train[:2]+test[3:5]")) == [0, 1, 103, 104]


class TestReadLabels:
    def test_listed_labels_are_used_without_reading(self):
        sources = {"train": ListedSource(10), "val": ListedSource(5)}
        labels = Subset.from_split(sources, "val[:3]+train[4:9]").take(np.array([7, 0, 1])).read_labels()
        assert (labels.tolist(), labels.dtype) == ([0, 0, 1], np.int32)

    def test_sources_without_examples_in_the_subset_are_not_read(self):
        sources = {"test": OwnSource(5), "train": ListedSource(10)}
        assert Subset.from_split(sources, "train[:4]").read_labels().tolist() == [0, 1, 0, 1]

    @pytest.mark.parametrize("source", [OwnSource(4), BulkSource(4)])
    def test_labels_are_read_if_a_source_does_not_list_them(self, source):
        assert Subset.from_split({"train": source}, "train").read_labels().tolist() == [0, 1, 0, 1]

    def test_listed_labels_agree_with_the_examples(self):
        generator = np.random.default_rng(0)
        arrays = [(generator.integers(0, 256, (n, 2, 2, 1), np.uint8), generator.integers(0, 3, n)) for n in (9, 7)]
        sources = {name: ArraySource(*array, "abc") for name, array in zip(("a", "b"), arrays, strict=True)}
        subset = Subset.from_split(sources, "b[2:]+a[:5]").take(np.array([9, 0, 4, 5]))
        assert subset.read_labels().tolist() == [label for _, _, label in subset.read()]


class CountingFiles(OwnSource):
    """PNG files of two sizes; counts how many were opened."""

    def __init__(self, size):
        super().__init__(size)
        self.opened = 0

    def __getitem__(self, index):
        self.opened += 1
        if index == 0:
            raise Unreadable("it is wet")
        file = io.BytesIO()
        Image.fromarray(np.zeros((4 + index % 2, 6, 3), np.uint8)).save(file, "PNG")
        return file.getvalue(), 0


class TestImageShapes:
    def test_image_shape_is_that_of_the_first_readable_image(self):
        source = CountingFiles(100)
        subset = Subset.from_split({"train": source}, "train")
        assert subset.image_shape == (5, 6, 3)
        assert source.opened == 2

    def test_image_shapes_are_the_distinct_ones_of_the_first_images(self):
        source = CountingFiles(100)
        assert Subset.from_split({"train": source}, "train").image_shapes == ((5, 6, 3), (4, 6, 3))
        assert source.opened == MAX_SHAPES_READ

    def test_shapes_are_read_once_for_a_subset_and_those_taken_from_it(self):
        source = CountingFiles(100)
        subset = Subset.from_split({"train": source}, "train")
        for _ in range(3):
            assert subset.image_shapes == subset.take(np.arange(50, 90)).image_shapes
            assert subset.image_shape == subset.take(np.arange(50, 90)).image_shape == (5, 6, 3)
        assert source.opened == MAX_SHAPES_READ

    def test_grayscale_has_one_channel(self):
        subset = Subset.from_split({"train": CountingFiles(3)}, "train")
        assert subset.image_shape == (5, 6, 3)
        assert subset.as_grayscale().image_shape == (5, 6, 1)
        assert subset.as_grayscale().take(np.array([2])).image_shape == (4, 6, 1)


class TestContentDigest:
    def digest(self, labels=(0, 1, 0, 1), split="train", content="four cats"):
        source = OwnSource(4)
        source.labels, source.content_digest = np.array(labels), content
        return Subset.from_split({"train": source}, split).content_digest()

    def test_digest_is_a_function_of_its_source(self):
        assert self.digest() == self.digest()

    @pytest.mark.parametrize(
        "changed", [{"labels": (0, 1, 1, 0)}, {"split": "train[:3]"}, {"content": "four dogs"}], ids=str
    )
    def test_digest_changes_with_labels_selection_and_content(self, changed):
        assert self.digest(**changed) != self.digest()

    def test_source_without_optional_members_is_accepted(self):
        assert Subset.from_split({"train": OwnSource(4)}, "train").content_digest()
