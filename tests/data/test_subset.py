import numpy as np
import pytest

from resnet_jax.data.decode import Unreadable
from resnet_jax.data.sources import ArraySource
from resnet_jax.data.subset import NO_LABEL, READ_AT_ONCE, Subset
from resnet_jax.errors import UserError
from tests.recording_reporter import RecordingReporter


class OwnSource:
    """A user's source: the protocol and nothing else. Its pictures are of the colour of their number."""

    classes = ("cat", "dog")

    def __init__(self, size, first=0):
        self._size, self._first = size, first

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        return np.full((4, 4, 3), (self._first + index) % 256, np.uint8), index % 2


class DamagedSource(OwnSource):
    """The second picture cannot be read."""

    def __getitem__(self, index):
        if index == 1:
            raise Unreadable("it is wet")
        return super().__getitem__(index)


class ListedSource(OwnSource):
    """Knows its labels and the names of its examples, and must not be read."""

    channels = 1

    @property
    def labels(self):
        return np.arange(len(self)) % 2

    def name(self, index):
        return f"/pets/{index}.jpg"

    def __getitem__(self, index):
        raise AssertionError("read without need")


class BulkSource(OwnSource):
    """Reads several examples at once, and notes which."""

    def __init__(self, size, first=0):
        super().__init__(size, first)
        self.asked = []

    def __getitems__(self, indices):
        self.asked.append(list(indices))
        return [super(BulkSource, self).__getitem__(index) for index in indices]

    def __getitem__(self, index):
        raise AssertionError("read one by one")


def colours(selection):
    return [int(image[0, 0, 0]) for _, image, _ in selection.read()]


def test_examples_come_in_the_order_that_the_split_names():
    selection = Subset.of({"train": OwnSource(100), "test": OwnSource(50, first=100)}, "test[:3]+train[10:12]")
    assert len(selection) == 5
    assert colours(selection) == [100, 101, 102, 10, 11]
    assert [int(selection[position][0][0, 0, 0]) for position in range(5)] == [100, 101, 102, 10, 11]
    assert [selection[position][1] for position in range(5)] == [0, 1, 0, 0, 1]
    assert [selection.name(position) for position in (0, 2, 3)] == ["test[0]", "test[2]", "train[10]"]


def test_some_of_the_chosen_can_be_chosen_again():
    selection = Subset.of({"train": OwnSource(100)}, "train[50:]").take(np.array([3, 1])).take(np.array([1, 0, 1]))
    assert colours(selection) == [51, 53, 51]
    assert selection.name(1) == "train[53]"


def test_examples_go_by_the_names_that_their_source_gives_them():
    selection = Subset.of({"train": ListedSource(10), "val": OwnSource(3)}, "train[4:5]+val[2:]")
    assert [selection.name(0), selection.name(1)] == ["/pets/4.jpg", "val[2]"]


@pytest.mark.parametrize(("source", "channels"), [(OwnSource(3), 3), (ListedSource(3), 1)])
def test_classes_and_channels_are_those_of_the_sources(source, channels):
    selection = Subset.of({"train": source}, "train")
    assert (selection.classes, selection.channels) == (("cat", "dog"), channels)


def test_a_split_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="unknown split 'trian'. Did you mean train"):
        Subset.of({"train": OwnSource(3)}, "trian")


class TestReading:
    def test_tells_how_far_it_is(self):
        reporter = RecordingReporter()
        selection = Subset.of({"train": OwnSource(READ_AT_ONCE + 5)}, "train")
        assert len(list(selection.read(reporter, "cats"))) == READ_AT_ONCE + 5
        total = READ_AT_ONCE + 5
        assert reporter.progress == [("reading cats", READ_AT_ONCE, total), ("reading cats", total, total)]

    def test_what_cannot_be_read_comes_with_the_reason_and_without_a_label(self):
        read = list(Subset.of({"train": DamagedSource(3)}, "train").read())
        assert [position for position, _, _ in read] == [0, 1, 2]
        assert str(read[1][1]) == "it is wet"
        assert [label for _, _, label in read] == [0, NO_LABEL, 0]

    def test_asks_a_source_for_several_at_once_if_it_can_give_them(self):
        train, test = BulkSource(READ_AT_ONCE + 50), BulkSource(10)
        selection = Subset.of({"train": train, "test": test}, f"train[:{READ_AT_ONCE}]+test[:2]")
        assert len(list(selection.read())) == READ_AT_ONCE + 2
        assert (train.asked, test.asked) == ([list(range(READ_AT_ONCE))], [[0, 1]])

    def test_does_not_mix_up_sources_within_one_reading(self):
        sources = {"train": BulkSource(9), "test": OwnSource(9, first=100)}
        assert colours(Subset.of(sources, "train[:2]+test[3:5]")) == [0, 1, 103, 104]


class TestLabels:
    def test_are_taken_from_sources_that_list_them_without_reading(self):
        sources = {"train": ListedSource(10), "val": ListedSource(5)}
        labels = Subset.of(sources, "val[:3]+train[4:9]").take(np.array([7, 0, 1])).read_labels()
        assert (labels.tolist(), labels.dtype) == ([0, 0, 1], np.int32)

    def test_of_a_listing_source_are_enough_where_another_one_is_not_used(self):
        sources = {"test": OwnSource(5), "train": ListedSource(10)}
        assert Subset.of(sources, "train[:4]").read_labels().tolist() == [0, 1, 0, 1]

    @pytest.mark.parametrize("source", [OwnSource(4), BulkSource(4)])
    def test_are_read_where_a_source_does_not_list_them(self, source):
        assert Subset.of({"train": source}, "train").read_labels().tolist() == [0, 1, 0, 1]

    def test_agree_with_the_examples(self):
        generator = np.random.default_rng(0)
        arrays = [(generator.integers(0, 256, (n, 2, 2, 1), np.uint8), generator.integers(0, 3, n)) for n in (9, 7)]
        sources = {name: ArraySource(*array, "abc") for name, array in zip(("a", "b"), arrays, strict=True)}
        selection = Subset.of(sources, "b[2:]+a[:5]").take(np.array([9, 0, 4, 5]))
        assert selection.read_labels().tolist() == [label for _, _, label in selection.read()]
