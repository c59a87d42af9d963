import io
import math

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import crops, host_batches
from resnet_jax.data.crops import Box
from resnet_jax.data.decode import ORIENTATION, ImageFile, Unreadable
from resnet_jax.data.host_batches import (
    NO_POSITION,
    EvaluationBatchLoader,
    ExampleLoader,
    TrainingBatchLoader,
    load_crop,
)
from resnet_jax.data.sampling import UniformSampler, epoch_order
from resnet_jax.data.sources import ArraySource
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError

SCALE = (0.08, 1.0)


def smooth(height, width):
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (15 + channel) + columns / (19 - channel)) for channel in range(3)]
    return np.round(127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


def encode(pixels, file_format, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def exif_with(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


class DamagedSource:
    """Numbered images, some of which cannot be read."""

    classes = tuple("abc")

    def __init__(self, size, damaged=()):
        self._size, self._damaged = size, set(damaged)

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        if index in self._damaged:
            raise Unreadable("it is wet")
        return np.full((6, 6, 1), index, np.uint8), index % 3


def make_loader(source, shape=(6, 6, 1), resized=False):
    return ExampleLoader(Subset.from_split({"train": source}, "train"), shape, resized)


def numbered_loader(size):
    return make_loader(DamagedSource(size))


def training_batches(loader, batch_size=8, rows=None, seed=0, scale=()):
    rows = np.arange(batch_size) if rows is None else rows
    return TrainingBatchLoader(loader, batch_size, rows, UniformSampler(seed, len(loader.subset)), scale)


def load(load_batch, number):
    images = np.full(load_batch.shape, 99, np.uint8)
    return images, load_batch(number, images)


class TestLoadCrop:
    def test_crop_is_the_content_of_the_box_resized(self):
        pixels = smooth(40, 60)
        requested = []

        def choose_box(height, width):
            requested.append((height, width))
            return Box(4, 10, 20, 30)

        expected = crops.resize(pixels[4:24, 10:40], 16)
        np.testing.assert_array_equal(load_crop(pixels, 3, choose_box, 16), expected)
        np.testing.assert_array_equal(load_crop(encode(pixels, "PNG"), 3, choose_box, 16), expected)
        assert requested == [(40, 60)] * 2

    @pytest.mark.parametrize(
        ("side", "shrink"), [(400, 8), (257, 8), (256, 8), (255, 4), (128, 4), (127, 2), (64, 2), (63, 1), (20, 1)]
    )
    def test_jpeg_is_decoded_no_larger_than_needed_and_looks_the_same(self, monkeypatch, side, shrink):
        shrinks = []
        decode = ImageFile.pixels

        def spy(file, channels, shrink, **options):
            shrinks.append(shrink)
            return decode(file, channels, shrink, **options)

        monkeypatch.setattr(ImageFile, "pixels", spy)
        pixels = smooth(400, 480)
        encoded = encode(pixels, "JPEG", quality=95, subsampling=0)
        box = Box(400 - side, 480 - side, side, side)
        crop = load_crop(encoded, 3, lambda height, width: box, 32)
        assert shrinks == [shrink]
        expected = crops.resize(pixels[400 - side :, 480 - side :], 32).astype(float)
        assert np.abs(crop - expected).mean() < 6  # The crop's edges are rounded to pixels of the shrunk image.

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
    def test_box_refers_to_the_upright_image(self, file_format):
        upright = smooth(256, 320)
        encoded = encode(np.rot90(upright), file_format, exif=exif_with(6))
        box = Box(0, 192, 128, 128)
        crop = load_crop(encoded, 3, lambda height, width: box if (height, width) == (256, 320) else None, 32)
        assert np.abs(crop - crops.resize(upright[:128, 192:], 32).astype(float)).mean() < 4

    def test_crop_has_at_least_one_pixel(self):
        pixels = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
        assert (load_crop(pixels, 1, lambda height, width: Box(1.2, 2.2, 0.2, 0.2), 2) == pixels[1, 2, 0]).all()


class TestExampleLoader:
    def test_images_are_kept_or_resized(self):
        images = np.stack([smooth(40, 60)] * 2)
        source = ArraySource(images, np.array([0, 1]), "ab")
        pixels, label = make_loader(source, (40, 60, 3))(1, None)
        np.testing.assert_array_equal(pixels, images[1])
        assert label == 1
        pixels, _ = make_loader(source, (16, 16, 3), resized=True)(1, lambda height, width: Box(0, 0, 40, 40))
        np.testing.assert_array_equal(pixels, crops.resize(images[1, :, :40], 16))

    @pytest.mark.parametrize("resized", [False, True])
    def test_invalid_label_is_named(self, resized):
        source = ArraySource(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 5]), "ab")
        with pytest.raises(UserError, match=r"train\[1\] has label 5, but labels must be from 0 to 1"):
            make_loader(source, (8, 8, 1), resized)(1, _whole_image)

    def test_image_of_another_size_is_named(self):
        source = ArraySource(np.zeros((2, 8, 9, 1), np.uint8), np.array([0, 1]), "ab")
        with pytest.raises(
            UserError, match=r"train\[1\] has shape \[8, 9, 1\], but other images have shape \[8, 8, 1\]\. Set"
        ):
            make_loader(source, (8, 8, 1))(1, _whole_image)


def _whole_image(height, width):
    return Box(0, 0, height, width)


class TestTrainingBatchLoader:
    def test_batches_follow_the_order_of_the_epochs(self):
        batches = training_batches(numbered_loader(20), seed=3)
        for step, (epoch, start) in enumerate([(0, 0), (0, 8), (1, 0), (1, 8), (2, 0)]):
            images, info = load(batches, step)
            expected = epoch_order(3, epoch, 20)[start : start + 8]
            assert info.positions.tolist() == expected.tolist()
            assert info.labels.tolist() == (expected % 3).tolist()
            np.testing.assert_array_equal(images, expected[:, None, None, None] * np.ones((6, 6, 1), int))
            assert info.problems == []

    def test_batch_is_a_function_of_the_step(self):
        source = ArraySource(np.stack([smooth(30, 40)] * 20), np.arange(20), range(20))
        loader = make_loader(source, (8, 8, 3), resized=True)
        in_order = [load(training_batches(loader, scale=SCALE), step) for step in range(5)]
        load_batch = training_batches(loader, scale=SCALE)
        for step in (4, 1, 4, 0):
            images, info = load(load_batch, step)
            np.testing.assert_array_equal(images, in_order[step][0])
            np.testing.assert_array_equal(info.positions, in_order[step][1].positions)

    @pytest.mark.parametrize("scale", [(), SCALE])
    def test_batches_of_two_processes_form_those_of_one(self, scale):
        source = ArraySource(np.stack([smooth(30, 40)] * 20), np.arange(20), range(20))
        loader = make_loader(source, (8, 8, 3), resized=True)
        for step in range(4):
            whole, info = load(training_batches(loader, scale=scale), step)
            halves = [
                load(training_batches(loader, rows=rows, scale=scale), step) for rows in np.arange(8).reshape(2, 4)
            ]
            np.testing.assert_array_equal(np.concatenate([images for images, _ in halves]), whole)
            together = np.concatenate([info.positions for _, info in halves])
            assert together.tolist() == info.positions.tolist()
            assert len(set(together)) == 8

    def test_crops_differ_by_position_epoch_and_seed(self):
        """All images are the same, so only the crops differ."""
        source = ArraySource(np.stack([smooth(60, 80)] * 8), np.zeros(8, int), "a")
        loader = make_loader(source, (8, 8, 3), resized=True)
        shown = [load(training_batches(loader, seed=seed, scale=SCALE), step)[0] for seed in (0, 1) for step in (0, 1)]
        assert len({image.tobytes() for images in shown for image in images}) == 32

    def test_central_square_is_used_without_random_crops(self):
        source = ArraySource(smooth(30, 40)[None], np.zeros(1, int), "a")
        images, _ = load(training_batches(make_loader(source, (8, 8, 3), resized=True), batch_size=1), 0)
        np.testing.assert_array_equal(images[0], crops.resize(smooth(30, 40)[:, 5:35], 8))

    def test_crops_have_the_configured_scale(self, monkeypatch):
        requested = []
        monkeypatch.setattr(
            host_batches.crops, "random_box", lambda *arguments: requested.append(arguments) or Box(0, 0, 9, 9)
        )
        source = ArraySource(np.stack([smooth(30, 40)] * 8), np.zeros(8, int), "a")
        load(training_batches(make_loader(source, (8, 8, 3), resized=True), scale=(0.3, 0.7)), 0)
        assert [(height, width, scale) for height, width, _, scale in requested] == [(30, 40, (0.3, 0.7))] * 8
        assert len({tuple(draws) for _, _, draws, _ in requested}) == 8

    def test_unreadable_image_is_replaced_by_the_next_readable_one(self):
        damaged = {4, 5, 19}
        complete = training_batches(numbered_loader(20))
        damaged_batches = training_batches(make_loader(DamagedSource(20, damaged)))
        substitute = {4: 6, 5: 6, 19: 0}
        reported = set()
        for step in range(4):
            expected = [substitute.get(position, position) for position in load(complete, step)[1].positions]
            images, info = load(damaged_batches, step)
            assert info.positions.tolist() == expected
            assert images[:, 0, 0, 0].tolist() == expected
            assert info.labels.tolist() == [position % 3 for position in expected]
            assert {reason for _, reason in info.problems} <= {"it is wet"}
            reported |= {name for name, _ in info.problems}
        assert reported == {"train[4]", "train[5]", "train[19]"}

    def test_damaged_file_is_replaced(self):
        good = encode(np.full((6, 6, 3), 50, np.uint8), "PNG")

        class Files(DamagedSource):
            def __getitem__(self, index):
                return (good[:50] if index == 2 else good), index % 3

        images, info = load(training_batches(make_loader(Files(8), (6, 6, 3))), 0)
        assert (images == 50).all()
        assert [name for name, _ in info.problems] == ["train[2]"]
        assert sorted(info.positions) == [0, 1, 3, 3, 4, 5, 6, 7]

    def test_dataset_without_readable_images_is_rejected(self):
        with pytest.raises(UserError, match="neither can any training image that could take its place"):
            load(training_batches(make_loader(DamagedSource(8, range(8)))), 0)


class TestEvaluationBatchLoader:
    @pytest.mark.parametrize("size", [1, 7, 8, 9])
    def test_batches_contain_every_example_once_in_order_and_are_padded(self, size):
        batches = EvaluationBatchLoader(numbered_loader(size), 8, np.arange(8), resize=6)
        loaded = [load(batches, number) for number in range(math.ceil(size / 8))]
        positions = np.concatenate([info.positions for _, info in loaded])
        num_padding = len(positions) - size
        assert positions.tolist() == [*range(size)] + [NO_POSITION] * num_padding
        labels = np.concatenate([info.labels for _, info in loaded])
        assert labels.tolist() == [*(np.arange(size) % 3)] + [NO_LABEL] * num_padding
        shown = np.concatenate([images for images, _ in loaded])[:, 0, 0, 0]
        assert shown.tolist() == [*range(size)] + [0] * num_padding

    def test_unreadable_image_is_reported_and_not_scored(self):
        batches = EvaluationBatchLoader(make_loader(DamagedSource(8, {2, 5})), 8, np.arange(8), resize=6)
        images, info = load(batches, 0)
        assert info.labels.tolist() == [0, 1, NO_LABEL, 0, 1, NO_LABEL, 0, 1]
        assert info.problems == [("train[2]", "it is wet"), ("train[5]", "it is wet")]
        assert images[:, 0, 0, 0].tolist() == [0, 1, 0, 3, 4, 0, 6, 7]

    def test_batches_of_two_processes_form_those_of_one(self):
        whole = load(EvaluationBatchLoader(numbered_loader(13), 8, np.arange(8), 6), 1)[1]
        halves = [
            load(EvaluationBatchLoader(numbered_loader(13), 8, rows, 6), 1)[1] for rows in np.arange(8).reshape(2, 4)
        ]
        assert np.concatenate([info.positions for info in halves]).tolist() == whole.positions.tolist()

    def test_images_are_resized_and_their_center_is_cropped(self):
        pixels = smooth(60, 80)
        loader = make_loader(ArraySource(pixels[None], np.zeros(1, int), "a"), (12, 12, 3), resized=True)
        images, _ = load(EvaluationBatchLoader(loader, 1, np.arange(1), resize=15), 0)
        np.testing.assert_array_equal(images[0], crops.resize(pixels[6:54, 16:64], 12))
