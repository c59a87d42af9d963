import dataclasses

import jax
import numpy as np
import optax
import pytest

from resnet_jax import config as settings
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.sources import ArraySource
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import make_evaluate, score_run
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel
from tests.evaluation.conftest import PREPROCESS, random_examples

CLASSES = tuple("0123456789")


class TestMakeEvaluate:
    @pytest.mark.parametrize("batch_size", [16, 64, 20])
    def test_scores_each_example_once_for_any_batch_size(self, model_and_variables, mesh, batch_size):
        """The batch sizes do not divide the 37 examples, exceed them, or cannot be divided among the eight devices."""
        model, variables = model_and_variables
        examples = random_examples(37)
        metrics = make_evaluate(model, PREPROCESS, batch_size, mesh)(variables, examples)
        logits = model.apply(variables, PREPROCESS(examples.images), train=False)
        expected = optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels)
        np.testing.assert_allclose(metrics.loss, expected, rtol=1e-5)
        np.testing.assert_array_equal(metrics.prediction, logits.argmax(-1))
        assert metrics.position.tolist() == list(range(37))
        assert metrics.label.tolist() == examples.labels.tolist()
        assert metrics.in_top5.shape == (37,)

    def test_compiles_once_for_any_examples_and_variables(self, model_and_variables, single_device):
        model, variables = model_and_variables
        traced = []

        def preprocess(images):
            traced.append(images.shape)
            return PREPROCESS(images)

        evaluate = make_evaluate(model, preprocess, 16, single_device)
        first = evaluate(variables, random_examples(5))
        second = evaluate(jax.tree.map(lambda leaf: leaf + 1, variables), random_examples(37))
        assert (len(first.loss), len(second.loss)) == (5, 37)
        assert traced == [(16, 8, 8, 1)]

    def test_returns_host_arrays(self, model_and_variables, mesh):
        model, variables = model_and_variables
        metrics = make_evaluate(model, PREPROCESS, 16, mesh)(variables, random_examples(5))
        assert {type(array) for array in metrics[:-1]} == {np.ndarray}


class DamagedSource(ArraySource):
    """Source whose first and last image cannot be read."""

    def __getitem__(self, index):
        if index in (0, len(self) - 1):
            raise Unreadable("it is wet")
        return super().__getitem__(index)


def new_reporter(max_unreadable=100):
    return Reporter(active=False, max_unreadable=max_unreadable)


class TestScoreRun:
    @pytest.fixture
    def make_run(self, model_and_variables, mesh):
        """Return a function from a feed to a `TrainedModel` whose settings name that feed."""
        model, variables = model_and_variables

        def make(feed="resident"):
            config = settings.default()
            config.batch_size = 16
            config.dataset.feed = feed
            config.dataset.num_workers = 0
            placed = parallel.place(variables, parallel.replicated(mesh))
            return TrainedModel(config, CLASSES, model, placed, PREPROCESS, 0, mesh)

        return make

    def test_rejects_data_with_unknown_classes(self, make_run):
        examples = random_examples(10)
        sources = {"test": ArraySource(examples.images, examples.labels, tuple("abcdefghij"))}
        with pytest.raises(UserError, match=r"the data has 10 classes \(a, b"):
            score_run(make_run(), sources, "test", new_reporter())

    def test_classes_of_equal_name_are_scored_as_different_classes(self, make_run):
        """ImageNet has two classes that are often called "crane"."""
        examples = random_examples(37)
        expected = score_run(
            make_run(), {"test": ArraySource(examples.images, examples.labels, CLASSES)}, "test", new_reporter()
        )
        names = ("crane", *CLASSES[1:-1], "crane")
        run = dataclasses.replace(make_run(), classes=names)
        sources = {"test": ArraySource(examples.images, examples.labels, names)}
        assert score_run(run, sources, "test", new_reporter()) == expected

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_scores_all_examples_of_a_split(self, make_run, feed):
        examples = random_examples(37)
        sources = {"test": ArraySource(examples.images, examples.labels, CLASSES)}
        run = make_run(feed)
        means = score_run(run, sources, "test", new_reporter())
        logits = run.model.apply(jax.device_get(run.variables), PREPROCESS(examples.images), train=False)
        assert (means["examples"], means["unreadable"]) == (37, 0)
        assert means["top1"] == (np.asarray(logits).argmax(-1) == examples.labels).mean()
        assert set(means) == {"loss", "top1", "top5", "examples", "unreadable"}

    def test_scores_the_named_slice_of_a_split(self, make_run):
        examples = random_examples(37)
        sources = {"test": ArraySource(examples.images, examples.labels, CLASSES)}
        slice_means = score_run(make_run(), sources, "test[5:30]", new_reporter())
        slice_alone = {"test": ArraySource(examples.images[5:30], examples.labels[5:30], CLASSES)}
        assert slice_means == score_run(make_run(), slice_alone, "test", new_reporter())

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_counts_unreadable_images_and_scores_the_others(self, make_run, feed):
        examples = random_examples(37)
        damaged = {"test": DamagedSource(examples.images, examples.labels, CLASSES)}
        means = score_run(make_run(feed), damaged, "test", new_reporter())
        readable = {"test": ArraySource(examples.images[1:-1], examples.labels[1:-1], CLASSES)}
        expected = score_run(make_run(feed), readable, "test", new_reporter()) | {"unreadable": 2}
        assert means == pytest.approx(expected, rel=1e-6)
        assert means["examples"] == 35

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_rejects_too_many_unreadable_images(self, make_run, feed):
        examples = random_examples(37)
        damaged = {"test": DamagedSource(examples.images, examples.labels, CLASSES)}
        with pytest.raises(UserError, match=r"2 images cannot be read, .* test\[36\]"):
            score_run(make_run(feed), damaged, "test", new_reporter(1))

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_rejects_a_split_without_readable_images(self, make_run, feed):
        examples = random_examples(2)
        damaged = {"test": DamagedSource(examples.images, examples.labels, CLASSES)}
        with pytest.raises(UserError, match="be read"):
            score_run(make_run(feed), damaged, "test", new_reporter())
