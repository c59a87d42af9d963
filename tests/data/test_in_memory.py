import io
import math

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.decode import Unreadable
from resnet_jax.data.host_batches import NO_POSITION
from resnet_jax.data.in_memory import InMemoryExamples, read_examples
from resnet_jax.data.sources import ArraySource
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter
from tests.recording_reporter import RecordingReporter


class OwnSource:
    """A minimal user-defined source."""

    classes = ("cat", "dog")

    def __init__(self, size, first=0):
        self._size, self._first = size, first

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        return np.full((4, 4, 3), self._first + index, np.uint8), index % 2


class ReplacingSource(OwnSource):
    """A source in which some examples are replaced; replacements that are exceptions are raised."""

    def __init__(self, size, replacements):
        super().__init__(size)
        self._replacements = replacements

    def __getitem__(self, index):
        example = self._replacements.get(index, super().__getitem__(index))
        if isinstance(example, Exception):
            raise example
        return example


def as_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def read(sources, split="train", reporter=None):
    return read_examples(Subset.from_split(sources, split), reporter or Reporter(active=False, max_unreadable=100))


def numbered_examples(size):
    images = np.arange(size, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 2, 2, 1), np.uint8)
    return InMemoryExamples(images, np.arange(size, dtype=np.int32) % 10, np.arange(size))


class TestReadExamples:
    def test_examples_have_the_order_of_the_split(self):
        reporter = RecordingReporter()
        examples = read(
            {"train": OwnSource(100), "test": OwnSource(50, first=100)},
            "test[:3]+train[10:12]",
            reporter,
        )
        assert examples.images[:, 0, 0, 0].tolist() == [100, 101, 102, 10, 11]
        assert examples.images.shape == (5, 4, 4, 3)
        assert examples.labels.tolist() == [0, 1, 0, 0, 1]
        assert examples.labels.dtype == np.int32
        assert reporter.progress == [("reading examples", 5, 5)]

    def test_array_source_is_read(self):
        images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
        examples = read({"train": ArraySource(images, np.array([1, 0]), ["a", "b"])})
        np.testing.assert_array_equal(examples.images, images)
        assert examples.labels.tolist() == [1, 0]

    def test_files_are_decoded_to_the_channels_of_the_source(self):
        pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
        source = ReplacingSource(1, {0: (as_png(pixels), 1)})
        np.testing.assert_array_equal(read({"train": source}).images[0], np.dstack([pixels] * 3))
        source.channels = 1
        np.testing.assert_array_equal(read({"train": source}).images[0, ..., 0], pixels)

    @pytest.mark.parametrize(
        ("image", "label", "message"),
        [
            (np.zeros((4, 4, 3), np.float32), 0, r"train\[1\] has an image of the wrong kind \(float32 \[4, 4, 3\]\)"),
            (np.zeros((4, 4), np.uint8), 0, r"train\[1\] has an image of the wrong kind \(uint8 \[4, 4\]\)"),
            (
                np.zeros((5, 4, 3), np.uint8),
                0,
                r"train\[1\] has shape \[5, 4, 3\], but other images have shape \[4, 4, 3\]\. Set dataset",
            ),
            (
                as_png(np.zeros((4, 6, 3), np.uint8)),
                0,
                r"train\[1\] has shape \[4, 6, 3\], but other images have shape \[4, 4, 3\]",
            ),
            (np.zeros((4, 4, 3), np.uint8), "cat", r"train\[1\] has a label of the wrong kind \(str\)"),
            (np.zeros((4, 4, 3), np.uint8), 2, r"train\[1\] has label 2, but labels must be from 0 to 1"),
            (np.zeros((4, 4, 3), np.uint8), -1, r"train\[1\] has label -1, but labels must be from 0 to 1"),
        ],
    )
    def test_invalid_example_is_named(self, image, label, message):
        with pytest.raises(UserError, match=message):
            read({"train": ReplacingSource(3, {1: (image, label)})})

    def test_unreadable_images_are_logged_and_left_out(self, caplog):
        source = ReplacingSource(5, {0: Unreadable("it is wet"), 3: (b"no image", 1)})
        examples = read({"train": source})
        assert examples.images[:, 0, 0, 0].tolist() == [1, 2, 4]
        assert examples.labels.tolist() == [1, 0, 0]
        assert caplog.messages == [
            "Unreadable: train[0]: it is wet",
            "Unreadable: train[3]: not a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM image",
        ]

    def test_dataset_without_readable_images_is_rejected(self):
        with pytest.raises(UserError, match="none of the images can be read"):
            read({"train": ReplacingSource(2, {0: Unreadable("wet"), 1: Unreadable("torn")})})


class TestBatches:
    @pytest.mark.parametrize("size", [1, 15, 16, 17, 37])
    def test_batches_contain_every_example_once_in_order_and_have_one_shape(self, size):
        examples = numbered_examples(size)
        batches = list(examples.batches(16, np.arange(16)))
        assert len(batches) == math.ceil(size / 16)
        assert {images.shape for images, _ in batches} == {(16, 2, 2, 1)}
        positions = np.concatenate([info.positions for _, info in batches])
        labels = np.concatenate([info.labels for _, info in batches])
        assert positions.tolist() == [*range(size)] + [NO_POSITION] * (len(positions) - size)
        assert labels.tolist() == [*examples.labels] + [NO_LABEL] * (len(positions) - size)
        images = np.concatenate([images for images, _ in batches])[:size]
        np.testing.assert_array_equal(images, examples.images)

    def test_batches_of_two_processes_form_those_of_one(self):
        examples = numbered_examples(21)
        whole = list(examples.batches(8, np.arange(8)))
        halves = zip(examples.batches(8, np.arange(4)), examples.batches(8, np.arange(4, 8)), strict=True)
        for (images, info), ((images1, info1), (images2, info2)) in zip(whole, halves, strict=True):
            np.testing.assert_array_equal(np.concatenate([info1.positions, info2.positions]), info.positions)
            np.testing.assert_array_equal(np.concatenate([info1.labels, info2.labels]), info.labels)
            np.testing.assert_array_equal(np.concatenate([images1, images2]), images)


def test_take_and_images_at_select_examples():
    examples = numbered_examples(10)
    taken = examples.take(np.array([7, 2]))
    assert (len(taken), taken.labels.tolist(), taken.images[:, 0, 0, 0].tolist()) == (2, [7, 2], [7, 2])
    np.testing.assert_array_equal(examples.images_at(np.array([3, 4])), examples.images[3:5])


def test_content_digest_changes_with_pixels_and_labels():
    examples, others = numbered_examples(20), numbered_examples(20)
    assert examples.content_digest() == others.content_digest()
    others.labels[7] = 0
    assert examples.content_digest() != others.content_digest()
    others = numbered_examples(20)
    others.images[7, 0, 0, 0] = 0
    assert examples.content_digest() != others.content_digest()
