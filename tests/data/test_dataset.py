import io
import logging

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_jax import config as settings
from resnet_jax.data.dataset import (
    common_classes,
    examples_of_run,
    open_dataset,
    open_evaluation_data,
    select_split,
)
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.data.preprocess import channel_statistics
from resnet_jax.data.resident import ResidentFeed
from resnet_jax.data.sources import ArraySource
from resnet_jax.data.streaming import StreamedExamples, StreamingFeed
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from tests.recording_reporter import RecordingReporter


def source(size, first=0, classes=("cat", "dog")):
    """Return a source whose images have their number as gray level. Labels alternate between 0 and 1."""
    numbers = first + np.arange(size)
    images = numbers.astype(np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
    return ArraySource(images, numbers % 2, classes)


class PngFiles:
    """PNG files of two sizes, with the optional member `labels`."""

    classes = ("cat", "dog")

    def __init__(self, size):
        self.labels = np.arange(size) % 2

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (20 + index % 2, 20, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue(), int(self.labels[index])


def make_config(**changed):
    config = settings.default()
    config.batch_size = 16
    config.dataset.num_workers = 0
    config.dataset.update(changed)
    return config


def new_reporter():
    return Reporter(active=False, max_unreadable=100)


def open_data(config, sources, mesh, reporter=None):
    return open_dataset(config, sources, mesh, reporter or new_reporter())


def colors(examples):
    if isinstance(examples, StreamedExamples):
        return [int(examples.images_at(np.array([position]))[0, 0, 0, 0]) for position in range(len(examples))]
    return examples.images[:, 0, 0, 0].tolist()


def epoch_colors(feed, mesh):
    """Return the colors of the images of an epoch."""
    used = [feed.take(feed.inputs(step), step)[0][:, 0, 0, 0] for step in range(feed.steps_per_epoch)]
    feed.close()
    return np.concatenate(used).tolist()


FEEDS = pytest.mark.parametrize("feed", ["resident", "streaming"])


class TestValidation:
    @FEEDS
    def test_tenth_of_each_class_is_held_out_by_default(self, mesh, feed):
        config = make_config(feed=feed)
        config.batch_size = 180
        inputs = open_data(config, {"train": source(200)}, parallel.make_mesh(jax.devices()[:4]))
        assert isinstance(inputs.validation, InMemoryExamples if feed == "resident" else StreamedExamples)
        held_out = colors(inputs.validation)
        assert [sum(color % 2 == label for color in held_out) for label in (0, 1)] == [10, 10]
        assert sorted(held_out + epoch_colors(inputs.feed, mesh)) == list(range(200))
        assert config.dataset.validation_split == ""

    @FEEDS
    def test_fold_is_held_out(self, mesh, feed):
        config = make_config(feed=feed, validation_split="fold:2/4")
        config.batch_size = 24
        inputs = open_data(config, {"train": source(32)}, mesh)
        held_out = colors(inputs.validation)
        assert [sum(color % 2 == label for color in held_out) for label in (0, 1)] == [4, 4]
        assert sorted(held_out + epoch_colors(inputs.feed, mesh)) == list(range(32))
        selected = select_split(config.dataset, {"train": source(32)}, "validation", new_reporter())
        assert colors(open_evaluation_data(config.dataset, selected, new_reporter())) == held_out

    def test_both_feeds_hold_out_the_same_examples(self, mesh):
        resident, streaming = (
            open_data(make_config(feed=feed), {"train": source(200)}, mesh) for feed in ("resident", "streaming")
        )
        assert colors(resident.validation) == colors(streaming.validation)
        assert epoch_colors(resident.feed, mesh) == epoch_colors(streaming.feed, mesh)

    @FEEDS
    @pytest.mark.parametrize("name", ["validation", "val", "valid"])
    def test_validation_split_of_the_dataset_is_used_if_there_is_one(self, mesh, feed, name):
        config = make_config(feed=feed)
        inputs = open_data(config, {"train": source(40), name: source(10, first=100)}, mesh)
        assert (inputs.feed.size, colors(inputs.validation)) == (40, list(range(100, 110)))
        assert config.dataset.validation_split == name

    def test_configured_validation_split_is_used(self, mesh):
        sources = {"train": source(200), "val": source(10)}
        inputs = open_data(make_config(train_split="train[:150]", validation_split="train[150:]"), sources, mesh)
        assert (inputs.feed.size, colors(inputs.validation)) == (150, list(range(150, 200)))

    def test_validation_none_disables_validation(self, mesh):
        inputs = open_data(make_config(validation_split="none"), {"train": source(40), "val": source(10)}, mesh)
        assert (inputs.feed.size, inputs.validation) == (40, None)

    @FEEDS
    def test_too_few_examples_to_hold_out_are_rejected(self, mesh, feed):
        with pytest.raises(UserError, match=r"8 training examples are too few to hold out a tenth .*or to 'none'"):
            open_data(make_config(feed=feed), {"train": source(8)}, mesh)


class TestSampler:
    @FEEDS
    def test_balanced_sampler_visits_the_kept_examples_of_each_class_equally_often(self, mesh, feed):
        """Colors 0, 1, 3, 5, ... are taken: one example of the class of even numbers, and 15 of the other class."""
        config = make_config(feed=feed, sampler="balanced", train_split="even+odd", validation_split="none")
        images = source(32).images
        sources = {
            name: ArraySource(images[first:last:2], np.full(len(images[first:last:2]), first), ("cat", "dog"))
            for name, first, last in (("even", 0, 2), ("odd", 1, 31))
        }
        inputs = open_data(config, sources, mesh)
        used = epoch_colors(inputs.feed, mesh)
        assert sorted(used) == [0] * 8 + sorted(color for color in used if color % 2)
        assert len(set(used)) == 9

    @FEEDS
    def test_labels_are_known_if_the_loss_needs_them(self, mesh, feed):
        config = make_config(feed=feed)
        config.loss.class_weights = "balanced"
        inputs = open_data(config, {"train": PngFiles(80)} if feed == "streaming" else {"train": source(80)}, mesh)
        assert np.bincount(inputs.labels).tolist() == [36, 36]


class TestChecks:
    @pytest.mark.parametrize(
        "changed",
        [
            {"validation_split": "train[90%:]"},
            {"test_split": "train[:10]"},
            {"validation_split": "test", "test_split": "test"},
            {"validation_split": "test[:5]", "test_split": ""},
            {"train_split": "train+test", "validation_split": "none"},
        ],
    )
    def test_overlapping_splits_are_rejected(self, mesh, changed):
        with pytest.raises(UserError, match="share"):
            open_data(make_config(**changed), {"train": source(200), "test": source(10)}, mesh)

    def test_split_used_for_training_is_not_used_for_validation(self, mesh):
        config = make_config(train_split="train+val")
        inputs = open_data(config, {"train": source(100), "val": source(100, first=100)}, mesh)
        assert (inputs.feed.size, len(inputs.validation)) == (180, 20)

    def test_different_classes_between_splits_are_rejected(self, mesh):
        sources = {"train": source(40), "val": source(10, classes=("cat", "dog", "elk"))}
        with pytest.raises(UserError, match=r"different classes \(2 in train, 3 in val\)"):
            open_data(make_config(), sources, mesh)

    def test_class_without_training_images_is_rejected(self, mesh):
        classes = ("cat", "dog", "elk", "fox")
        val = ArraySource(np.zeros((4, 4, 4, 3), np.uint8), np.array([0, 2, 3, 2]), classes)
        sources = {"train": source(40, classes=classes), "val": val}
        with pytest.raises(UserError, match=r"val has images of classes \(elk, fox\) that train has no images of"):
            open_data(make_config(), sources, mesh)

    def test_classes_are_checked_only_for_a_new_run(self, mesh):
        sources = {"train": ArraySource(np.zeros((40, 4, 4, 3), np.uint8), np.zeros(40, int), ("cat", "dog"))}
        with pytest.raises(UserError, match="all training examples belong to one class"):
            open_data(make_config(), sources, mesh)
        assert open_dataset(make_config(), sources, mesh, new_reporter(), is_new=False).classes == ("cat", "dog")

    def test_batch_larger_than_the_remaining_training_examples_is_rejected(self, mesh):
        config = make_config()
        config.batch_size = 40
        with pytest.raises(UserError, match=r"batch_size \(40\) exceeds the number of training examples \(36\)"):
            open_data(config, {"train": source(40)}, mesh)


class TestOpenDataset:
    @FEEDS
    def test_mean_and_std_are_measured_on_the_training_examples(self, mesh, feed):
        config = make_config(feed=feed)
        inputs = open_data(config, {"train": source(200), "test": source(20, first=230)}, mesh)
        kept = np.setdiff1d(np.arange(200), colors(inputs.validation)).astype(np.uint8)
        assert (config.dataset.mean, config.dataset.std) == channel_statistics(kept[:, None, None, None].repeat(3, -1))

    def test_configured_mean_and_std_are_kept(self, mesh):
        config = make_config(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
        open_data(config, {"train": source(200)}, mesh)
        assert (config.dataset.mean, config.dataset.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))

    def test_feed_is_streaming_if_images_to_score_differ_in_size(self, mesh):
        """A resident feed could not resize them after training."""
        images = np.zeros((64, 20, 20, 3), np.uint8)
        sources = {"train": ArraySource(images, np.arange(64) % 2, ("cat", "dog")), "test": PngFiles(8)}
        config = make_config()
        open_dataset(config, sources, mesh, Reporter(active=False))
        assert (config.dataset.feed, config.dataset.image_size) == ("streaming", 20)
        with pytest.raises(UserError, match="images of the validation or test split differ in size"):
            open_dataset(make_config(feed="resident"), sources, mesh, Reporter(active=False))

    def test_wrong_label_of_a_split_to_score_is_named(self, mesh):
        """Before training, not after it."""
        sources = {"train": source(64), "test": source(8)}
        sources["test"].labels[5] = 7
        with pytest.raises(UserError, match=r"test\[5\] has label 7, but labels must be from 0 to 1"):
            open_dataset(make_config(), sources, mesh, Reporter(active=False))

    def test_feed_is_chosen_and_logged_with_the_reason(self, mesh, caplog):
        caplog.set_level(logging.INFO, "resnet_jax")
        config = make_config()
        inputs = open_data(config, {"train": PngFiles(40), "val": PngFiles(10)}, mesh)
        assert isinstance(inputs.feed, StreamingFeed)
        assert isinstance(inputs.validation, StreamedExamples)
        assert caplog.messages == [
            "Feed: streaming, because images differ in size (dataset.image_size is unset, so 224 is used)."
        ]
        assert (config.dataset.feed, config.dataset.image_size, config.dataset.eval_resize) == ("streaming", 224, 256)
        assert inputs.feed.image_shape == (224, 224, 3)

    def test_classes_are_returned_and_progress_is_reported(self, mesh):
        reporter = RecordingReporter()
        inputs = open_data(make_config(), {"train": source(40), "val": source(10)}, mesh, reporter)
        assert inputs.classes == ("cat", "dog")
        assert isinstance(inputs.feed, ResidentFeed)
        assert reporter.progress == [("reading training examples", 40, 40), ("reading validation examples", 10, 10)]

    def test_crops_and_evaluation_sizes_are_as_configured(self, mesh):
        config = make_config(image_size=12, eval_crop=14, eval_resize=18)
        config.augment.random_resized_crop = (0.2, 0.4)
        inputs = open_data(config, {"train": PngFiles(40), "val": PngFiles(10)}, mesh)
        assert inputs.feed.image_shape == (12, 12, 3)
        assert inputs.feed._load_batch.scale == (0.2, 0.4)
        assert inputs.validation.images_at(np.array([3])).shape == (1, 14, 14, 3)
        assert inputs.validation.resize == 18


class TwelveBitSource:
    """PNG files of 16 bits, of which 12 are used."""

    classes = ("cat", "dog")

    def __len__(self):
        return 40

    def __getitem__(self, index):
        levels = np.full((8, 8), 4095 - 16 * index, np.uint16)
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "PNG")
        return file.getvalue(), index % 2


class TestBitDepth:
    @FEEDS
    def test_bits_in_use_are_measured_logged_and_used(self, mesh, feed, caplog):
        caplog.set_level(logging.INFO, "resnet_jax")
        config = make_config(feed=feed)
        sources = {"train": TwelveBitSource(), "val": TwelveBitSource()}
        inputs = open_data(config, sources, mesh)
        inputs.feed.close()
        assert config.dataset.bit_depth == 12
        assert "16-bit images use only 12 bits, which are scaled to 8 (dataset.bit_depth=12)." in caplog.messages
        assert colors(inputs.validation) == list(range(255, 215, -1))

    def test_resumed_run_keeps_an_unset_bit_depth(self, mesh):
        config = make_config()
        inputs = open_dataset(
            config, {"train": TwelveBitSource(), "val": TwelveBitSource()}, mesh, new_reporter(), False
        )
        assert config.dataset.bit_depth is None
        assert max(colors(inputs.validation)) == 15


def test_small_images_are_stored_at_their_own_size(mesh):
    inputs = open_data(make_config(image_size=224), {"train": source(40), "val": source(10)}, mesh)
    assert isinstance(inputs.feed, ResidentFeed)
    images, _, _ = inputs.feed.take(inputs.feed.inputs(0), 0)
    assert (images.shape, images.dtype) == ((16, 4, 4, 3), np.uint8)
    assert inputs.validation.images.shape == (10, 4, 4, 3)


def test_evaluation_data_is_opened_with_the_feed_of_the_run():
    subset = Subset.from_split({"test": source(10)}, "test[2:5]")
    resident = open_evaluation_data(make_config(feed="resident").dataset, subset, new_reporter())
    assert isinstance(resident, InMemoryExamples)
    streamed = open_evaluation_data(make_config(feed="streaming").dataset, subset, new_reporter())
    assert isinstance(streamed, StreamedExamples)
    assert colors(resident) == colors(streamed) == [2, 3, 4]


class DamagedSource(ArraySource):
    """A source whose first five images cannot be read."""

    def __getitem__(self, index):
        if index < 5:
            raise Unreadable("it is wet")
        return super().__getitem__(index)


class TestSelectSplit:
    @FEEDS
    def test_held_out_examples_are_reproduced_despite_unreadable_images(self, mesh, feed):
        config, whole = make_config(feed=feed), source(60)
        sources = {"train": DamagedSource(whole.images, whole.labels, whole.classes)}
        inputs = open_dataset(config, sources, mesh, new_reporter())
        inputs.feed.close()
        selected = select_split(config.dataset, sources, "validation", new_reporter())
        assert colors(open_evaluation_data(config.dataset, selected, new_reporter())) == colors(inputs.validation)
        kept = examples_of_run(config.dataset, sources, "training", new_reporter())
        assert len(kept) + len(selected) == (55 if feed == "resident" else 60)
        assert not {*map(kept.name, range(len(kept)))} & {*map(selected.name, range(len(selected)))}

    def test_validation_is_a_split_of_the_dataset_or_the_configured_one(self):
        def validation_size(configured, sources):
            dataset = make_config(validation_split=configured).dataset
            return len(select_split(dataset, sources, "validation", new_reporter()))

        assert validation_size("val", {"train": source(60), "val": source(4, first=60)}) == 4
        assert validation_size("train[:3]", {"train": source(60), "validation": source(6, first=60)}) == 6

    def test_held_out_examples_are_not_those_of_a_split_called_validation(self):
        dataset = make_config(validation_split="").dataset
        sources = {"train": source(60), "validation": source(20, first=60)}
        assert len(select_split(dataset, sources, "validation", new_reporter())) == 20
        assert len(examples_of_run(dataset, sources, "validation", new_reporter())) == 6

    def test_run_without_validation_has_no_validation_split(self):
        with pytest.raises(UserError, match="the run has no validation split"):
            select_split(
                make_config(validation_split="none").dataset, {"train": source(60)}, "validation", new_reporter()
            )


class TestClasses:
    def test_common_classes_are_those_of_all_splits(self):
        assert common_classes({"train": source(4), "test": source(2)}) == ("cat", "dog")
