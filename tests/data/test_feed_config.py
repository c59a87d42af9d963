import io
import re

import numpy as np
import pytest
from PIL import Image

from resnet_jax import config as settings
from resnet_jax.data import feed_config
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.preprocess import channel_statistics
from resnet_jax.data.sources import ArraySource
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter


def dataset_settings(**changed):
    dataset = settings.default().dataset
    dataset.num_workers = 0
    dataset.update(changed)
    return dataset


def sizes_and_feed(dataset):
    return dataset.feed, dataset.image_size, dataset.eval_resize, dataset.eval_crop


class Images:
    """PNG files with noise of the given sizes. A size of None stands for an image that cannot be read."""

    classes = ("cat", "dog")

    def __init__(self, sizes):
        self._sizes = sizes
        self.read = []

    def __len__(self):
        return len(self._sizes)

    def __getitem__(self, index):
        self.read.append(index)
        if self._sizes[index] is None:
            raise Unreadable("it is wet")
        pixels = np.random.default_rng(index).integers(0, 256, (*self._sizes[index], 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue(), index % 2


class Truncated(Images):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image[:60], label


def whole_subset(source):
    return Subset.from_split({"train": source}, "train")


def equal_images():
    """Return 30 MB of images of one size."""
    return whole_subset(ArraySource(np.zeros((1000, 100, 100, 3), np.uint8), np.zeros(1000, int), "a"))


def new_reporter():
    return Reporter(active=False, max_unreadable=100)


class TestCheck:
    @pytest.mark.parametrize(
        "changed",
        [
            {},
            {"feed": "resident"},
            {"image_size": 64},
            {"feed": "resident", "image_size": 64},
            {"feed": "streaming", "image_size": 64, "eval_resize": 80, "eval_crop": 72},
            {"image_size": 64, "eval_resize": 64},
            {"image_size": 176, "eval_crop": 224},
        ],
    )
    def test_check_accepts_consistent_settings(self, changed):
        feed_config.check(dataset_settings(**changed))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"feed": "residant"}, "unknown dataset.feed 'residant'. Did you mean resident"),
            (
                {"feed": "resident", "image_size": 64, "eval_crop": 64},
                r"dataset\.eval_crop \(64\) needs a streaming feed, .*--config\.dataset\.feed=streaming",
            ),
            ({"feed": "resident", "eval_resize": 64}, r"dataset\.eval_resize \(64\) needs a streaming feed"),
            ({"eval_resize": 64}, r"need dataset\.image_size\. Set it"),
            ({"eval_crop": 64}, r"need dataset\.image_size\. Set it"),
            ({"image_size": 64, "eval_resize": 60}, r"\(64 pixels\) is larger than dataset\.eval_resize \(60\)"),
            (
                {"image_size": 64, "eval_crop": 72, "eval_resize": 70},
                r"\(72 pixels\) is larger than dataset\.eval_resize \(70\)",
            ),
        ],
    )
    def test_check_rejects_contradictory_settings(self, changed, message):
        with pytest.raises(UserError, match=message):
            feed_config.check(dataset_settings(**changed))


class TestResolve:
    def test_dataset_that_fits_into_memory_is_resident(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 120_000_000)
        dataset = dataset_settings()
        reason = feed_config.resolve(dataset, equal_images(), mesh)
        assert sizes_and_feed(dataset) == ("resident", 100, None, None)
        assert re.fullmatch(r"Feed: resident, .*1,000 images take 30\S* MB of \S+ .B free on a device\.", reason)

    def test_dataset_larger_than_a_quarter_of_the_memory_is_streamed(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 120_000_000 - 1)
        dataset = dataset_settings()
        reason = feed_config.resolve(dataset, equal_images(), mesh)
        assert sizes_and_feed(dataset) == ("streaming", None, None, None)
        assert re.fullmatch(
            r"Feed: streaming, because .*1,000 images take 30\S* MB .*, which is more than 1/4\.", reason
        )

    def test_memory_is_estimated_from_decoded_images(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 10**9)
        subset = whole_subset(Images([(30, 40)] * 3))
        assert feed_config.decoded_bytes(subset) == 3 * 30 * 40 * 3
        dataset = dataset_settings()
        feed_config.resolve(dataset, subset, mesh)
        assert dataset.feed == "resident"

    def test_images_of_different_sizes_are_streamed_at_the_default_size(self, mesh):
        dataset = dataset_settings()
        reason = feed_config.resolve(dataset, whole_subset(Images([(30, 40), (40, 30)])), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 224, 256, 224)
        assert reason == "Feed: streaming, because images differ in size (dataset.image_size is unset, so 224 is used)."

    def test_images_of_different_sizes_are_streamed_at_the_configured_size(self, mesh):
        dataset = dataset_settings(image_size=64)
        reason = feed_config.resolve(dataset, whole_subset(Images([(30, 40), (40, 30)])), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 64, 73, 64)
        assert reason == "Feed: streaming, because images differ in size."

    def test_small_images_are_stored_as_they_are_and_resized_in_each_step(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 120_000_000)
        dataset = dataset_settings(image_size=224)
        reason = feed_config.resolve(dataset, equal_images(), mesh)
        assert sizes_and_feed(dataset) == ("resident", 224, None, None)
        assert re.fullmatch(r"Feed: resident, .*1,000 .*MB free on a device, and each .* resizes .*224 x 224\.", reason)

    def test_images_of_the_configured_size_are_not_resized(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 120_000_000)
        dataset = dataset_settings(image_size=100)
        reason = feed_config.resolve(dataset, equal_images(), mesh)
        assert sizes_and_feed(dataset) == ("resident", 100, None, None)
        assert "resizes" not in reason

    def test_small_images_that_do_not_fit_into_memory_are_streamed(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 120_000_000 - 1)
        dataset = dataset_settings(image_size=224)
        reason = feed_config.resolve(dataset, equal_images(), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 224, 256, 224)
        assert reason.endswith("which is more than 1/4.")

    @pytest.mark.parametrize(
        ("size", "why"),
        [
            ((100, 100), "larger than dataset.image_size (64)"),
            ((80, 40), "larger than dataset.image_size (64)"),
            ((30, 40), "not square, but dataset.image_size (64) is the side of a square"),
        ],
    )
    def test_images_that_are_not_small_squares_are_streamed(self, mesh, size, why):
        dataset = dataset_settings(image_size=64)
        reason = feed_config.resolve(dataset, whole_subset(Images([size] * 3)), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 64, 73, 64)
        assert reason == f"Feed: streaming, because images of {size[0]} x {size[1]} are {why}."

    @pytest.mark.parametrize("setting", ["eval_resize", "eval_crop"])
    def test_evaluation_sizes_need_streaming(self, mesh, setting):
        dataset = dataset_settings(image_size=224, **{setting: 230})
        reason = feed_config.resolve(dataset, equal_images(), mesh)
        assert dataset.feed == "streaming"
        assert re.fullmatch(r"Feed: streaming, because dataset\.eval_resize and dataset\.eval_crop need it\.", reason)

    def test_configured_values_are_kept(self, mesh):
        dataset = dataset_settings(feed="streaming", image_size=64, eval_resize=70, eval_crop=68)
        assert feed_config.resolve(dataset, equal_images(), mesh) == "Feed: streaming, as configured."
        assert sizes_and_feed(dataset) == ("streaming", 64, 70, 68)

    def test_resize_default_depends_on_the_crop(self, mesh):
        dataset = dataset_settings(image_size=176, eval_crop=224)
        feed_config.resolve(dataset, equal_images(), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 176, 256, 224)

    @pytest.mark.parametrize("image_size", [64, 224])
    def test_configured_resident_feed_accepts_any_size(self, mesh, image_size):
        dataset = dataset_settings(feed="resident", image_size=image_size)
        assert feed_config.resolve(dataset, equal_images(), mesh) == "Feed: resident, as configured."
        assert sizes_and_feed(dataset) == ("resident", image_size, None, None)

    def test_resumed_run_keeps_the_choice(self, mesh):
        started = settings.default()
        started.dataset.image_size = 224
        requested = started.copy_and_resolve_references()
        feed_config.resolve(started.dataset, equal_images(), mesh)
        resumed = settings.resume(started, requested)
        feed_config.resolve(resumed.dataset, equal_images(), mesh)
        assert resumed == started
        with pytest.raises(UserError, match=r"dataset\.image_size \(stored 224, now 64\)"):
            requested.dataset.image_size = 64
            settings.resume(started, requested)

    @pytest.mark.parametrize(("feed", "recorded"), [("resident", 100), ("streaming", None)])
    def test_configured_feed_is_used_and_equal_sizes_are_kept(self, mesh, feed, recorded):
        dataset = dataset_settings(feed=feed)
        feed_config.resolve(dataset, equal_images(), mesh)
        assert sizes_and_feed(dataset) == (feed, recorded, None, None)

    def test_configured_streaming_feed_resizes_if_sizes_differ(self, mesh):
        dataset = dataset_settings(feed="streaming")
        feed_config.resolve(dataset, whole_subset(Images([(30, 40), (40, 30)])), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 224, 256, 224)

    def test_splits_of_different_sizes_are_scored_at_the_size_of_training(self, mesh):
        small, large = whole_subset(Images([(30, 30)] * 2)), whole_subset(Images([(60, 60)] * 2))
        dataset = dataset_settings(feed="streaming")
        feed_config.resolve(dataset, small, mesh, [large])
        assert sizes_and_feed(dataset) == ("streaming", 30, 34, 30)
        dataset = dataset_settings(feed="resident")
        feed_config.resolve(dataset, small, mesh, [large])
        assert sizes_and_feed(dataset) == ("resident", 30, None, None)

    def test_resident_feed_refuses_splits_of_different_sizes_that_are_not_square(self, mesh):
        small, large = whole_subset(Images([(30, 40)] * 2)), whole_subset(Images([(60, 80)] * 2))
        with pytest.raises(UserError, match="from each other or from those for training"):
            feed_config.resolve(dataset_settings(feed="resident"), small, mesh, [large])
        dataset = dataset_settings()
        feed_config.resolve(dataset, small, mesh, [large])
        assert sizes_and_feed(dataset) == ("streaming", 224, 256, 224)

    def test_only_the_first_images_are_opened_and_unreadable_ones_are_skipped(self, mesh):
        source = Images([None] * 3 + [(30, 40)] * 90)
        dataset = dataset_settings(feed="streaming")
        feed_config.resolve(dataset, whole_subset(source), mesh)
        assert sorted(set(source.read)) == list(range(64))
        assert dataset.image_size is None

    def test_dataset_without_readable_images_is_rejected(self, mesh):
        with pytest.raises(UserError, match="none of the first 3 images can be read"):
            feed_config.resolve(dataset_settings(), whole_subset(Images([None] * 3)), mesh)


class TestExampleLoader:
    def test_loader_has_the_size_of_training_or_evaluation(self):
        dataset = dataset_settings(feed="streaming", image_size=16, eval_crop=20, eval_resize=24)
        subset = whole_subset(Images([(30, 40), (40, 30)]))
        assert feed_config.example_loader(dataset, subset, training=True).shape == (16, 16, 3)
        assert feed_config.example_loader(dataset, subset, training=False).shape == (20, 20, 3)
        assert feed_config.example_loader(dataset, subset, training=True).resized

    def test_loader_keeps_the_common_size(self):
        loader = feed_config.example_loader(
            dataset_settings(feed="streaming"), whole_subset(Images([(30, 40)] * 2)), training=True
        )
        assert (loader.shape, loader.resized) == ((30, 40, 3), False)

    def test_streamed_examples_are_resized_and_cropped_as_configured(self):
        dataset = dataset_settings(feed="streaming", image_size=16, eval_crop=20, eval_resize=24, num_workers=3)
        examples = feed_config.streamed_examples(dataset, whole_subset(Images([(30, 40)] * 2)), new_reporter())
        assert (examples.loader.shape, examples.resize, examples.num_workers) == ((20, 20, 3), 24, 3)


class TestSampleImages:
    def test_sample_contains_all_images_of_a_small_dataset(self):
        subset = whole_subset(Images([(6, 5)] * 40))
        images = feed_config.sample_images(dataset_settings(feed="streaming"), subset, new_reporter())
        assert images.shape == (40, 6, 5, 3)
        expected = np.stack([np.random.default_rng(n).integers(0, 256, (6, 5, 3), np.uint8) for n in range(40)])
        assert channel_statistics(images) == channel_statistics(expected)

    def test_sample_is_spread_evenly_over_a_large_dataset(self, monkeypatch):
        monkeypatch.setattr(feed_config, "STATISTICS_SAMPLE", 11)
        images = np.arange(101, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 1), np.uint8)
        subset = whole_subset(ArraySource(images, np.zeros(101, int), "a"))
        images = feed_config.sample_images(dataset_settings(feed="streaming"), subset, new_reporter())
        assert images[:, 0, 0, 0].tolist() == list(range(0, 101, 10))

    def test_sample_without_readable_images_is_rejected(self):
        """The sizes of these images can be read, but not their pixels."""
        subset = whole_subset(Truncated([(6, 5)] * 3))
        with pytest.raises(UserError, match="none of 3 training images can be read"):
            feed_config.sample_images(dataset_settings(feed="streaming"), subset, new_reporter())

    def test_sample_skips_and_reports_unreadable_images(self):
        reporter = new_reporter()
        subset = whole_subset(Images([(6, 5), None, (6, 5), (6, 5)]))
        assert len(feed_config.sample_images(dataset_settings(feed="streaming"), subset, reporter)) == 3
        assert len(reporter.unreadable) == 1


def test_number_of_workers_is_configured_or_default(monkeypatch):
    monkeypatch.setattr(feed_config, "default_workers", lambda: 5)
    assert feed_config.num_workers(dataset_settings(num_workers=0)) == 0
    assert feed_config.num_workers(dataset_settings(num_workers=2)) == 2
    assert feed_config.num_workers(dataset_settings(num_workers=None)) == 5
