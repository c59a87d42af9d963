import io
import logging

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_jax import config as settings
from resnet_jax.data.dataset import common_classes, open_dataset, open_split, select, untrained_classes
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
    """Pictures of the colour of their number, half of each class."""
    numbers = first + np.arange(size)
    images = numbers.astype(np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
    return ArraySource(images, numbers % 2, classes)


class Photos:
    """PNG files of two sizes, whose labels are known without reading them."""

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


def own(**changed):
    config = settings.default()
    config.batch_size = 16
    config.dataset.num_workers = 0
    config.dataset.update(changed)
    return config


def new_reporter():
    return Reporter(active=False, max_unreadable=100)


def open_them(config, sources, mesh, reporter=None):
    return open_dataset(config, sources, mesh, reporter or new_reporter())


def colours(examples):
    if isinstance(examples, StreamedExamples):
        return [int(examples.images_at(np.array([position]))[0, 0, 0, 0]) for position in range(len(examples))]
    return examples.images[:, 0, 0, 0].tolist()


def trained_on(feed, mesh):
    """The colours of an epoch's pictures."""
    shown = [feed.take(feed.inputs(step), step)[0][:, 0, 0, 0] for step in range(feed.steps_per_epoch)]
    feed.close()
    return np.concatenate(shown).tolist()


FEEDS = pytest.mark.parametrize("feed", ["resident", "streaming"])


class TestValidation:
    @FEEDS
    def test_a_tenth_of_each_class_is_held_out_by_default(self, mesh, feed):
        config = own(feed=feed)
        config.batch_size = 180
        inputs = open_them(config, {"train": source(200)}, parallel.make_mesh(jax.devices()[:4]))
        assert isinstance(inputs.validation, InMemoryExamples if feed == "resident" else StreamedExamples)
        held_out = colours(inputs.validation)
        assert [sum(colour % 2 == label for colour in held_out) for label in (0, 1)] == [10, 10]
        assert sorted(held_out + trained_on(inputs.feed, mesh)) == list(range(200))
        assert config.dataset.validation_split == ""

    def test_what_is_held_out_is_the_same_for_both_feeds(self, mesh):
        one, other = (open_them(own(feed=feed), {"train": source(200)}, mesh) for feed in ("resident", "streaming"))
        assert colours(one.validation) == colours(other.validation)
        assert trained_on(one.feed, mesh) == trained_on(other.feed, mesh)

    @FEEDS
    @pytest.mark.parametrize("name", ["validation", "val", "valid"])
    def test_the_set_s_own_split_is_taken_where_there_is_one(self, mesh, feed, name):
        config = own(feed=feed)
        inputs = open_them(config, {"train": source(40), name: source(10, first=100)}, mesh)
        assert (inputs.feed.size, colours(inputs.validation)) == (40, list(range(100, 110)))
        assert config.dataset.validation_split == name

    def test_a_split_that_is_named_is_taken(self, mesh):
        sources = {"train": source(200), "val": source(10)}
        inputs = open_them(own(train_split="train[:150]", validation_split="train[150:]"), sources, mesh)
        assert (inputs.feed.size, colours(inputs.validation)) == (150, list(range(150, 200)))

    def test_none_is_none(self, mesh):
        inputs = open_them(own(validation_split="none"), {"train": source(40), "val": source(10)}, mesh)
        assert (inputs.feed.size, inputs.validation) == (40, None)

    @FEEDS
    def test_too_few_to_hold_out_is_said(self, mesh, feed):
        with pytest.raises(UserError, match=r"8 training examples are too few to hold out a tenth .*or 'none'"):
            open_them(own(feed=feed), {"train": source(8)}, mesh)


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
    def test_splits_that_share_examples_are_refused(self, mesh, changed):
        with pytest.raises(UserError, match="share"):
            open_them(own(**changed), {"train": source(200), "test": source(10)}, mesh)

    def test_a_split_that_is_used_is_not_taken_for_validation_too(self, mesh):
        config = own(train_split="train+val")
        inputs = open_them(config, {"train": source(100), "val": source(100, first=100)}, mesh)
        assert (inputs.feed.size, len(inputs.validation)) == (180, 20)

    def test_classes_that_differ_between_splits_are_refused(self, mesh):
        sources = {"train": source(40), "val": source(10, classes=("cat", "dog", "elk"))}
        with pytest.raises(UserError, match=r"different classes \(2 in train, 3 in val\)"):
            open_them(own(), sources, mesh)

    def test_a_class_that_is_never_trained_is_refused(self, mesh):
        classes = ("cat", "dog", "elk", "fox")
        val = ArraySource(np.zeros((4, 4, 4, 3), np.uint8), np.array([0, 2, 3, 2]), classes)
        with pytest.raises(UserError, match="val has pictures of elk, fox, and train has none: no network could learn"):
            open_them(own(), {"train": source(40, classes=classes), "val": val}, mesh)

    def test_a_batch_larger_than_what_stays_for_training_is_refused(self, mesh):
        config = own()
        config.batch_size = 40
        with pytest.raises(UserError, match="batch_size 40 is more than the 36 training examples"):
            open_them(config, {"train": source(40)}, mesh)


class TestWhatIsFilledIn:
    @FEEDS
    def test_mean_and_deviation_of_what_is_trained_on(self, mesh, feed):
        config = own(feed=feed)
        inputs = open_them(config, {"train": source(200), "test": source(20, first=230)}, mesh)
        kept = np.setdiff1d(np.arange(200), colours(inputs.validation)).astype(np.uint8)
        assert (config.dataset.mean, config.dataset.std) == channel_statistics(kept[:, None, None, None].repeat(3, -1))

    def test_mean_and_deviation_stay_as_set(self, mesh):
        config = own(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
        open_them(config, {"train": source(200)}, mesh)
        assert (config.dataset.mean, config.dataset.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))

    def test_the_feed_and_it_is_told_why(self, mesh, caplog):
        caplog.set_level(logging.INFO, "resnet_jax")
        config = own()
        inputs = open_them(config, {"train": Photos(40), "val": Photos(10)}, mesh)
        assert isinstance(inputs.feed, StreamingFeed)
        assert isinstance(inputs.validation, StreamedExamples)
        assert caplog.messages == ["Feed: streaming, since pictures differ in size (dataset.image_size unset: 224)."]
        assert (config.dataset.feed, config.dataset.image_size, config.dataset.eval_resize) == ("streaming", 224, 256)
        assert inputs.feed.image_shape == (224, 224, 3)

    def test_the_classes_and_the_progress_of_reading(self, mesh):
        reporter = RecordingReporter()
        inputs = open_them(own(), {"train": source(40), "val": source(10)}, mesh, reporter)
        assert inputs.classes == ("cat", "dog")
        assert isinstance(inputs.feed, ResidentFeed)
        assert reporter.progress == [("reading training examples", 40, 40), ("reading validation examples", 10, 10)]

    def test_training_crops_and_evaluation_sizes_are_those_of_the_settings(self, mesh):
        config = own(image_size=12, eval_crop=14, eval_resize=18)
        config.augment.random_resized_crop = (0.2, 0.4)
        inputs = open_them(config, {"train": Photos(40), "val": Photos(10)}, mesh)
        assert inputs.feed.image_shape == (12, 12, 3)
        assert inputs.feed._batches.scale == (0.2, 0.4)
        assert inputs.validation.images_at(np.array([3])).shape == (1, 14, 14, 3)
        assert inputs.validation.resize == 18


def test_small_pictures_stay_as_they_are_on_the_device(mesh):
    inputs = open_them(own(image_size=224), {"train": source(40), "val": source(10)}, mesh)
    assert isinstance(inputs.feed, ResidentFeed)
    images, _ = inputs.feed.take(inputs.feed.inputs(0), 0)
    assert (images.shape, images.dtype) == ((16, 4, 4, 3), np.uint8)
    assert inputs.validation.images.shape == (10, 4, 4, 3)


def test_a_split_to_be_scored_is_opened_as_the_run_s_settings_say():
    selection = Subset.of({"test": source(10)}, "test[2:5]")
    resident = open_split(own(feed="resident").dataset, selection, new_reporter())
    assert isinstance(resident, InMemoryExamples)
    streamed = open_split(own(feed="streaming").dataset, selection, new_reporter())
    assert isinstance(streamed, StreamedExamples)
    assert colours(resident) == colours(streamed) == [2, 3, 4]


class Wet(ArraySource):
    """Pictures of which the first five cannot be read."""

    def __getitem__(self, index):
        if index < 5:
            raise Unreadable("it is wet")
        return super().__getitem__(index)


class TestSelecting:
    @FEEDS
    def test_what_was_held_out_is_found_again_though_some_of_it_cannot_be_read(self, mesh, feed):
        config, whole = own(feed=feed), source(60)
        sources = {"train": Wet(whole.images, whole.labels, whole.classes)}
        inputs = open_dataset(config, sources, mesh, new_reporter())
        inputs.feed.close()
        again = select(config.dataset, sources, "validation", new_reporter())
        assert colours(open_split(config.dataset, again, new_reporter())) == colours(inputs.validation)

    def test_validation_is_the_data_set_s_own_or_what_the_settings_name(self):
        named = {"train": source(60), "val": source(4, first=60)}
        assert len(select(own(validation_split="val").dataset, named, "validation", new_reporter())) == 4
        own_split = {"train": source(60), "validation": source(6, first=60)}
        assert len(select(own(validation_split="train[:3]").dataset, own_split, "validation", new_reporter())) == 6

    def test_a_run_on_everything_has_no_validation_split(self):
        with pytest.raises(UserError, match="there is no validation split: name another one"):
            select(own(validation_split="none").dataset, {"train": source(60)}, "validation", new_reporter())


class TestClasses:
    def test_that_all_splits_have(self):
        assert common_classes({"train": source(4), "test": source(2)}) == ("cat", "dog")

    def test_of_which_there_is_nothing_to_train_on(self):
        sources = {"train": source(1), "val": source(2), "test": source(1)}
        assert untrained_classes(sources, ["train"]) == {"val": ["dog"]}
        assert untrained_classes(sources, ["train", "val"]) == {}

    def test_are_not_judged_where_sources_do_not_list_their_labels(self):
        class Unlisted(ArraySource):
            def __init__(self, size):
                whole = source(size)
                self.images, self._labels, self.classes = whole.images, whole.labels, whole.classes

            def __len__(self):
                return len(self._labels)

        assert untrained_classes({"train": Unlisted(1), "val": source(4)}, ["train"]) == {}
        assert untrained_classes({"train": source(1), "val": Unlisted(4)}, ["train"]) == {}
