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


class Pictures:
    """Noise of the given sizes, as PNG files; None: a picture that cannot be read."""

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


def selection_of(source):
    return Subset.of({"train": source}, "train")


def alike():
    """Thirty megabytes of pictures of one size."""
    return selection_of(ArraySource(np.zeros((1000, 100, 100, 3), np.uint8), np.zeros(1000, int), "a"))


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
    def test_settings_that_agree_are_taken(self, changed):
        feed_config.check(dataset_settings(**changed))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"feed": "residant"}, "unknown dataset.feed 'residant'. Did you mean resident"),
            (
                {"feed": "resident", "image_size": 64, "eval_crop": 64},
                r"dataset\.eval_crop is for .* streamed, .* keeps them whole: .*--config\.dataset\.feed=streaming",
            ),
            ({"feed": "resident", "eval_resize": 64}, r"dataset\.eval_resize is for pictures that are cut"),
            ({"eval_resize": 64}, r"need dataset\.image_size, the size in training"),
            ({"eval_crop": 64}, r"need dataset\.image_size, the size in training"),
            ({"image_size": 64, "eval_resize": 60}, r"\(64 pixels\) is more than dataset\.eval_resize \(60\)"),
            (
                {"image_size": 64, "eval_crop": 72, "eval_resize": 70},
                r"\(72 pixels\) is more than dataset\.eval_resize \(70\)",
            ),
        ],
    )
    def test_settings_that_contradict_each_other_are_refused(self, changed, message):
        with pytest.raises(UserError, match=message):
            feed_config.check(dataset_settings(**changed))


class TestResolve:
    def test_what_fits_into_memory_lives_there(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 120_000_000)
        dataset = dataset_settings()
        reason = feed_config.resolve(dataset, alike(), mesh)
        assert sizes_and_feed(dataset) == ("resident", 100, None, None)
        assert re.fullmatch(r"Feed: resident, .*1,000 .*pictures take 30\S* MB of \S+ .B free on a device\.", reason)

    def test_what_takes_more_than_a_quarter_of_the_memory_is_streamed_as_it_is(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 120_000_000 - 1)
        dataset = dataset_settings()
        reason = feed_config.resolve(dataset, alike(), mesh)
        assert sizes_and_feed(dataset) == ("streaming", None, None, None)
        assert re.fullmatch(
            r"Feed: streaming, since .*1,000 .*pictures take 30\S* MB .*, more than one part in 4\.", reason
        )

    def test_memory_is_judged_by_what_files_take_when_they_are_decoded(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 10**9)
        selection = selection_of(Pictures([(30, 40)] * 3))
        assert feed_config.decoded_bytes(selection) == 3 * 30 * 40 * 3
        dataset = dataset_settings()
        feed_config.resolve(dataset, selection, mesh)
        assert dataset.feed == "resident"

    def test_pictures_of_different_sizes_are_streamed_at_the_usual_one(self, mesh):
        dataset = dataset_settings()
        reason = feed_config.resolve(dataset, selection_of(Pictures([(30, 40), (40, 30)])), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 224, 256, 224)
        assert reason == "Feed: streaming, since pictures differ in size (dataset.image_size unset: 224)."

    def test_pictures_of_different_sizes_are_streamed_at_the_size_that_is_asked_for(self, mesh):
        dataset = dataset_settings(image_size=64)
        reason = feed_config.resolve(dataset, selection_of(Pictures([(30, 40), (40, 30)])), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 64, 73, 64)
        assert reason == "Feed: streaming, since pictures differ in size."

    def test_small_pictures_stay_small_in_memory_and_each_step_resizes_its_own(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 120_000_000)
        dataset = dataset_settings(image_size=224)
        reason = feed_config.resolve(dataset, alike(), mesh)
        assert sizes_and_feed(dataset) == ("resident", 224, None, None)
        assert re.fullmatch(r"Feed: resident, .*1,000 .*MB free on a device, and each .* resizes .*224 x 224\.", reason)

    def test_pictures_of_the_size_that_is_asked_for_are_not_resized(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 120_000_000)
        dataset = dataset_settings(image_size=100)
        reason = feed_config.resolve(dataset, alike(), mesh)
        assert sizes_and_feed(dataset) == ("resident", 100, None, None)
        assert "resizes" not in reason

    def test_small_pictures_that_do_not_fit_into_memory_are_streamed(self, monkeypatch, mesh):
        monkeypatch.setattr(parallel, "free_memory", lambda mesh: 120_000_000 - 1)
        dataset = dataset_settings(image_size=224)
        reason = feed_config.resolve(dataset, alike(), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 224, 256, 224)
        assert reason.endswith("more than one part in 4.")

    @pytest.mark.parametrize(("size", "why"), [((100, 100), "larger"), ((80, 40), "larger"), ((30, 40), "not square")])
    def test_pictures_that_are_not_small_squares_are_streamed(self, mesh, size, why):
        dataset = dataset_settings(image_size=64)
        reason = feed_config.resolve(dataset, selection_of(Pictures([size] * 3)), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 64, 73, 64)
        pictures = f"pictures of {size[0]} x {size[1]} are {why}"
        assert reason == f"Feed: streaming, since dataset.image_size asks for resizing, and {pictures}."

    @pytest.mark.parametrize("setting", ["eval_resize", "eval_crop"])
    def test_sizes_of_evaluation_mean_streaming(self, mesh, setting):
        dataset = dataset_settings(image_size=224, **{setting: 230})
        reason = feed_config.resolve(dataset, alike(), mesh)
        assert dataset.feed == "streaming"
        assert re.fullmatch(r"Feed: streaming, since dataset\.eval_resize and dataset\.eval_crop are .*\.", reason)

    def test_what_is_set_stays(self, mesh):
        dataset = dataset_settings(feed="streaming", image_size=64, eval_resize=70, eval_crop=68)
        assert feed_config.resolve(dataset, alike(), mesh) == "Feed: streaming, as the settings of the run say."
        assert sizes_and_feed(dataset) == ("streaming", 64, 70, 68)

    def test_the_size_to_resize_to_goes_by_what_is_cut_out(self, mesh):
        dataset = dataset_settings(image_size=176, eval_crop=224)
        feed_config.resolve(dataset, alike(), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 176, 256, 224)

    @pytest.mark.parametrize("image_size", [64, 224])
    def test_a_resident_feed_that_is_asked_for_takes_any_size(self, mesh, image_size):
        dataset = dataset_settings(feed="resident", image_size=image_size)
        assert feed_config.resolve(dataset, alike(), mesh) == "Feed: resident, as the settings of the run say."
        assert sizes_and_feed(dataset) == ("resident", image_size, None, None)

    def test_a_run_that_goes_on_keeps_what_was_chosen(self, mesh):
        started = settings.default()
        started.dataset.image_size = 224
        wanted = started.copy_and_resolve_references()
        feed_config.resolve(started.dataset, alike(), mesh)
        resumed = settings.resume(started, wanted)
        feed_config.resolve(resumed.dataset, alike(), mesh)
        assert resumed == started
        with pytest.raises(UserError, match=r"dataset\.image_size \(there 224, here 64\)"):
            wanted.dataset.image_size = 64
            settings.resume(started, wanted)

    @pytest.mark.parametrize(("feed", "recorded"), [("resident", 100), ("streaming", None)])
    def test_a_feed_that_is_asked_for_is_taken_and_equal_sizes_are_kept(self, mesh, feed, recorded):
        dataset = dataset_settings(feed=feed)
        feed_config.resolve(dataset, alike(), mesh)
        assert sizes_and_feed(dataset) == (feed, recorded, None, None)

    def test_a_streaming_feed_that_is_asked_for_resizes_where_sizes_differ(self, mesh):
        dataset = dataset_settings(feed="streaming")
        feed_config.resolve(dataset, selection_of(Pictures([(30, 40), (40, 30)])), mesh)
        assert sizes_and_feed(dataset) == ("streaming", 224, 256, 224)

    def test_only_the_first_pictures_are_looked_at_and_unreadable_ones_passed_over(self, mesh):
        source = Pictures([None] * 3 + [(30, 40)] * 90)
        dataset = dataset_settings(feed="streaming")
        feed_config.resolve(dataset, selection_of(source), mesh)
        assert sorted(set(source.read)) == list(range(64))
        assert dataset.image_size is None

    def test_nothing_that_can_be_read_is_an_error(self, mesh):
        with pytest.raises(UserError, match=r"not one of the first 3 .*pictures can be read"):
            feed_config.resolve(dataset_settings(), selection_of(Pictures([None] * 3)), mesh)


class TestLoader:
    def test_has_the_size_of_training_or_of_evaluation(self):
        dataset = dataset_settings(feed="streaming", image_size=16, eval_crop=20, eval_resize=24)
        selection = selection_of(Pictures([(30, 40), (40, 30)]))
        assert feed_config.loader(dataset, selection, training=True).shape == (16, 16, 3)
        assert feed_config.loader(dataset, selection, training=False).shape == (20, 20, 3)
        assert feed_config.loader(dataset, selection, training=True).resized

    def test_keeps_the_size_that_all_pictures_have(self):
        loader = feed_config.loader(
            dataset_settings(feed="streaming"), selection_of(Pictures([(30, 40)] * 2)), training=True
        )
        assert (loader.shape, loader.resized) == ((30, 40, 3), False)

    def test_examples_to_be_scored_are_resized_and_cut_as_the_settings_say(self):
        dataset = dataset_settings(feed="streaming", image_size=16, eval_crop=20, eval_resize=24, num_workers=3)
        examples = feed_config.streamed_examples(dataset, selection_of(Pictures([(30, 40)] * 2)), new_reporter())
        assert (examples.loader.shape, examples.resize, examples.num_workers) == ((20, 20, 3), 24, 3)


class TestSample:
    def test_is_of_all_pictures_where_there_are_few(self):
        selection = selection_of(Pictures([(6, 5)] * 40))
        pictures = feed_config.sample(dataset_settings(feed="streaming"), selection, new_reporter())
        assert pictures.shape == (40, 6, 5, 3)
        expected = np.stack([np.random.default_rng(n).integers(0, 256, (6, 5, 3), np.uint8) for n in range(40)])
        assert channel_statistics(pictures) == channel_statistics(expected)

    def test_is_spread_evenly_where_there_are_many(self, monkeypatch):
        monkeypatch.setattr(feed_config, "MEASURED", 11)
        images = np.arange(101, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 1), np.uint8)
        selection = selection_of(ArraySource(images, np.zeros(101, int), "a"))
        pictures = feed_config.sample(dataset_settings(feed="streaming"), selection, new_reporter())
        assert pictures[:, 0, 0, 0].tolist() == list(range(0, 101, 10))

    def test_leaves_out_what_cannot_be_read_and_tells_it(self):
        unreadable = new_reporter()
        selection = selection_of(Pictures([(6, 5), None, (6, 5), (6, 5)]))
        assert len(feed_config.sample(dataset_settings(feed="streaming"), selection, unreadable)) == 3
        assert len(unreadable.unreadable) == 1


def test_the_number_of_workers_is_as_set_and_else_chosen(monkeypatch):
    monkeypatch.setattr(feed_config, "default_workers", lambda: 5)
    assert feed_config.num_workers(dataset_settings(num_workers=0)) == 0
    assert feed_config.num_workers(dataset_settings(num_workers=2)) == 2
    assert feed_config.num_workers(dataset_settings(num_workers=None)) == 5
