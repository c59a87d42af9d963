import io

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import crops, host_batches
from resnet_jax.data.crops import Box
from resnet_jax.data.decode import ORIENTATION, ImageFile, Unreadable
from resnet_jax.data.host_batches import EvaluationBatches, Loader, TrainingBatches, epoch_order, part_of
from resnet_jax.data.sources import ArraySource
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError

SCALE = (0.08, 1.0)


def smooth(height, width):
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (15 + channel) + columns / (19 - channel)) for channel in range(3)]
    return np.round(127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


def encode(pixels, form, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


class DamagedSource:
    """Numbered pictures, some of which cannot be read."""

    classes = tuple("abc")

    def __init__(self, size, damaged=()):
        self._size, self._damaged = size, set(damaged)

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        if index in self._damaged:
            raise Unreadable("it is wet")
        return np.full((6, 6, 1), index, np.uint8), index % 3


def loader_of(source, shape=(6, 6, 1), resized=False):
    return Loader(Subset.of({"train": source}, "train"), shape, resized)


def numbered(size):
    return loader_of(DamagedSource(size))


def training(loader, batch_size=8, rows=None, seed=0, scale=()):
    rows = np.arange(batch_size) if rows is None else rows
    return TrainingBatches(loader, batch_size, rows, seed, scale)


def load(batches, number):
    images = np.full(batches.shape, 99, np.uint8)
    return images, batches(number, images)


class TestPartOfAPicture:
    def test_is_what_the_box_holds_resized(self):
        pixels = smooth(40, 60)
        asked = []

        def box_of(height, width):
            asked.append((height, width))
            return Box(4, 10, 20, 30)

        expected = crops.resize(pixels[4:24, 10:40], 16)
        np.testing.assert_array_equal(part_of(pixels, 3, box_of, 16), expected)
        np.testing.assert_array_equal(part_of(encode(pixels, "PNG"), 3, box_of, 16), expected)
        assert asked == [(40, 60)] * 2

    @pytest.mark.parametrize(
        ("side", "shrink"), [(400, 8), (257, 8), (256, 8), (255, 4), (128, 4), (127, 2), (64, 2), (63, 1), (20, 1)]
    )
    def test_of_a_jpeg_is_decoded_no_larger_than_needed_and_looks_the_same(self, monkeypatch, side, shrink):
        shrinks = []
        decode = ImageFile.pixels

        def spy(file, channels, shrink, **options):
            shrinks.append(shrink)
            return decode(file, channels, shrink, **options)

        monkeypatch.setattr(ImageFile, "pixels", spy)
        pixels = smooth(400, 480)
        encoded = encode(pixels, "JPEG", quality=95, subsampling=0)
        box = Box(400 - side, 480 - side, side, side)
        part = part_of(encoded, 3, lambda height, width: box, 32)
        assert shrinks == [shrink]
        expected = crops.resize(pixels[400 - side :, 480 - side :], 32).astype(float)
        assert np.abs(part - expected).mean() < 6  # Its edges lie on pixels of the shrunk picture.

    @pytest.mark.parametrize("form", ["PNG", "JPEG"])
    def test_of_a_turned_photo_lies_where_one_sees_it(self, form):
        upright = smooth(256, 320)
        encoded = encode(np.rot90(upright), form, exif=turned(6))
        box = Box(0, 192, 128, 128)
        part = part_of(encoded, 3, lambda height, width: box if (height, width) == (256, 320) else None, 32)
        assert np.abs(part - crops.resize(upright[:128, 192:], 32).astype(float)).mean() < 4

    def test_is_at_least_a_pixel(self):
        pixels = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
        assert (part_of(pixels, 1, lambda height, width: Box(1.2, 2.2, 0.2, 0.2), 2) == pixels[1, 2, 0]).all()


class TestLoader:
    def test_gives_pictures_as_they_are_or_resized(self):
        images = np.stack([smooth(40, 60)] * 2)
        source = ArraySource(images, np.array([0, 1]), "ab")
        pixels, label = loader_of(source, (40, 60, 3))(1, None)
        np.testing.assert_array_equal(pixels, images[1])
        assert label == 1
        pixels, _ = loader_of(source, (16, 16, 3), resized=True)(1, lambda height, width: Box(0, 0, 40, 40))
        np.testing.assert_array_equal(pixels, crops.resize(images[1, :, :40], 16))

    @pytest.mark.parametrize("resized", [False, True])
    def test_a_label_that_is_no_class_is_named(self, resized):
        source = ArraySource(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 5]), "ab")
        with pytest.raises(UserError, match=r"train\[1\] has label 5, which is none of the 2 classes"):
            loader_of(source, (8, 8, 1), resized)(1, _whole)

    def test_another_size_is_named(self):
        source = ArraySource(np.zeros((2, 8, 9, 1), np.uint8), np.array([0, 1]), "ab")
        with pytest.raises(UserError, match=r"train\[1\] has shape \[8, 9, 1\], others have \[8, 8, 1\]: train with"):
            loader_of(source, (8, 8, 1))(1, _whole)


def _whole(height, width):
    return Box(0, 0, height, width)


class TestTrainingBatches:
    def test_are_the_epochs_in_their_order(self):
        batches = training(numbered(20), seed=3)
        for step, (epoch, start) in enumerate([(0, 0), (0, 8), (1, 0), (1, 8), (2, 0)]):
            images, rows = load(batches, step)
            expected = epoch_order(3, epoch, 20)[start : start + 8]
            assert rows.positions.tolist() == expected.tolist()
            assert rows.labels.tolist() == (expected % 3).tolist()
            np.testing.assert_array_equal(images, expected[:, None, None, None] * np.ones((6, 6, 1), int))
            assert rows.problems == []

    def test_are_a_function_of_the_step_whatever_came_before(self):
        source = ArraySource(np.stack([smooth(30, 40)] * 20), np.arange(20), range(20))
        loader = loader_of(source, (8, 8, 3), resized=True)
        in_order = [load(training(loader, scale=SCALE), step) for step in range(5)]
        one = training(loader, scale=SCALE)
        for step in (4, 1, 4, 0):
            images, rows = load(one, step)
            np.testing.assert_array_equal(images, in_order[step][0])
            np.testing.assert_array_equal(rows.positions, in_order[step][1].positions)

    @pytest.mark.parametrize("scale", [(), SCALE])
    def test_of_two_processes_are_together_those_of_one(self, scale):
        source = ArraySource(np.stack([smooth(30, 40)] * 20), np.arange(20), range(20))
        loader = loader_of(source, (8, 8, 3), resized=True)
        for step in range(4):
            whole, known = load(training(loader, scale=scale), step)
            halves = [load(training(loader, rows=rows, scale=scale), step) for rows in np.arange(8).reshape(2, 4)]
            np.testing.assert_array_equal(np.concatenate([images for images, _ in halves]), whole)
            together = np.concatenate([rows.positions for _, rows in halves])
            assert together.tolist() == known.positions.tolist()
            assert len(set(together)) == 8

    def test_crops_differ_by_place_epoch_and_seed(self):
        """One picture over and over: what differs is the crop."""
        source = ArraySource(np.stack([smooth(60, 80)] * 8), np.zeros(8, int), "a")
        loader = loader_of(source, (8, 8, 3), resized=True)
        shown = [load(training(loader, seed=seed, scale=SCALE), step)[0] for seed in (0, 1) for step in (0, 1)]
        assert len({image.tobytes() for images in shown for image in images}) == 32

    def test_without_random_crops_the_square_in_the_middle_is_shown(self):
        source = ArraySource(smooth(30, 40)[None], np.zeros(1, int), "a")
        images, _ = load(training(loader_of(source, (8, 8, 3), resized=True), batch_size=1), 0)
        np.testing.assert_array_equal(images[0], crops.resize(smooth(30, 40)[:, 5:35], 8))

    def test_a_crop_has_the_share_of_the_area_that_is_asked_for(self, monkeypatch):
        asked = []
        monkeypatch.setattr(
            host_batches.crops, "random_box", lambda *arguments: asked.append(arguments) or Box(0, 0, 9, 9)
        )
        source = ArraySource(np.stack([smooth(30, 40)] * 8), np.zeros(8, int), "a")
        load(training(loader_of(source, (8, 8, 3), resized=True), scale=(0.3, 0.7)), 0)
        assert [(height, width, scale) for height, width, _, scale in asked] == [(30, 40, (0.3, 0.7))] * 8
        assert len({tuple(draws) for _, _, draws, _ in asked}) == 8

    def test_an_unreadable_picture_is_replaced_by_the_next_that_can_be_read(self):
        damaged = {4, 5, 19}
        whole, holed = training(numbered(20)), training(loader_of(DamagedSource(20, damaged)))
        substitute = {4: 6, 5: 6, 19: 0}
        met = set()
        for step in range(4):
            expected = [substitute.get(position, position) for position in load(whole, step)[1].positions]
            images, rows = load(holed, step)
            assert rows.positions.tolist() == expected
            assert images[:, 0, 0, 0].tolist() == expected
            assert rows.labels.tolist() == [position % 3 for position in expected]
            assert {reason for _, reason in rows.problems} <= {"it is wet"}
            met |= {name for name, _ in rows.problems}
        assert met == {"train[4]", "train[5]", "train[19]"}

    def test_damaged_files_are_replaced_as_well(self):
        good = encode(np.full((6, 6, 3), 50, np.uint8), "PNG")

        class Files(DamagedSource):
            def __getitem__(self, index):
                return (good[:50] if index == 2 else good), index % 3

        images, rows = load(training(loader_of(Files(8), (6, 6, 3))), 0)
        assert (images == 50).all()
        assert [name for name, _ in rows.problems] == ["train[2]"]
        assert sorted(rows.positions) == [0, 1, 3, 3, 4, 5, 6, 7]

    def test_nothing_that_can_be_read_is_an_error(self):
        with pytest.raises(UserError, match="not one of the training pictures can be read"):
            load(training(loader_of(DamagedSource(8, range(8)))), 0)


class TestEvaluationBatches:
    @pytest.mark.parametrize("size", [1, 7, 8, 9])
    def test_hold_every_example_once_in_order_and_fill_up_with_what_is_not_scored(self, size):
        batches = EvaluationBatches(numbered(size), 8, np.arange(8), resize=6)
        loaded = [load(batches, number) for number in range(-(-size // 8))]
        positions = np.concatenate([rows.positions for _, rows in loaded])
        unscored = [NO_LABEL] * (len(positions) - size)
        assert positions.tolist() == [*range(size), *unscored]
        assert np.concatenate([rows.labels for _, rows in loaded]).tolist() == [*(np.arange(size) % 3), *unscored]
        shown = np.concatenate([images for images, _ in loaded])[:, 0, 0, 0]
        assert shown.tolist() == [*range(size)] + [0] * len(unscored)

    def test_an_unreadable_picture_is_not_scored_and_told(self):
        batches = EvaluationBatches(loader_of(DamagedSource(8, {2, 5})), 8, np.arange(8), resize=6)
        images, rows = load(batches, 0)
        assert rows.labels.tolist() == [0, 1, NO_LABEL, 0, 1, NO_LABEL, 0, 1]
        assert rows.problems == [("train[2]", "it is wet"), ("train[5]", "it is wet")]
        assert images[:, 0, 0, 0].tolist() == [0, 1, 0, 3, 4, 0, 6, 7]

    def test_of_two_processes_are_together_those_of_one(self):
        whole = load(EvaluationBatches(numbered(13), 8, np.arange(8), 6), 1)[1]
        halves = [load(EvaluationBatches(numbered(13), 8, rows, 6), 1)[1] for rows in np.arange(8).reshape(2, 4)]
        assert np.concatenate([rows.positions for rows in halves]).tolist() == whole.positions.tolist()

    def test_pictures_are_resized_and_their_middle_is_cut_out(self):
        pixels = smooth(60, 80)
        loader = loader_of(ArraySource(pixels[None], np.zeros(1, int), "a"), (12, 12, 3), resized=True)
        images, _ = load(EvaluationBatches(loader, 1, np.arange(1), resize=15), 0)
        np.testing.assert_array_equal(images[0], crops.resize(pixels[6:54, 16:64], 12))


def test_the_order_of_an_epoch_is_each_example_once_and_another_each_time():
    orders = [epoch_order(seed, epoch, 50) for seed, epoch in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
