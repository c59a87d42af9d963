import jax
import numpy as np
import pytest

from resnet_jax import config as settings
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.sources import ArraySource
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import score_run
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel
from tests.evaluation.conftest import PREPROCESS, random_examples

CLASSES = tuple("0123456789")


class DamagedSource(ArraySource):
    """The first and the last picture cannot be read."""

    def __getitem__(self, index):
        if index in (0, len(self) - 1):
            raise Unreadable("it is wet")
        return super().__getitem__(index)


@pytest.fixture
def run_of(model_and_variables, mesh):
    """A run as it is stored, with the feed that it was trained with."""
    model, variables = model_and_variables

    def make(feed="resident"):
        config = settings.default()
        config.batch_size = 16
        config.dataset.feed = feed
        config.dataset.num_workers = 0
        placed = parallel.place(variables, parallel.replicated(mesh))
        return TrainedModel(config, CLASSES, model, placed, PREPROCESS, 0, mesh)

    return make


def new_reporter(most=100):
    return Reporter(active=False, max_unreadable=most)


class TestScoringARun:
    def test_data_of_other_classes_is_refused(self, run_of):
        examples = random_examples(10)
        sources = {"test": ArraySource(examples.images, examples.labels, tuple("abcdefghij"))}
        with pytest.raises(UserError, match="but the data has the 10 classes a, b"):
            score_run(run_of(), sources, "test", new_reporter())

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_scores_all_of_a_split(self, run_of, feed):
        examples = random_examples(37)
        sources = {"test": ArraySource(examples.images, examples.labels, CLASSES)}
        run = run_of(feed)
        scores = score_run(run, sources, "test", new_reporter())
        logits = run.model.apply(jax.device_get(run.variables), PREPROCESS(examples.images), train=False)
        assert (scores["examples"], scores["unreadable"]) == (37, 0)
        assert scores["top1"] == (np.asarray(logits).argmax(-1) == examples.labels).mean()
        assert set(scores) == {"loss", "top1", "top5", "examples", "unreadable"}

    def test_scores_the_examples_that_are_named(self, run_of):
        examples = random_examples(37)
        sources = {"test": ArraySource(examples.images, examples.labels, CLASSES)}
        named = score_run(run_of(), sources, "test[5:30]", new_reporter())
        alone = {"test": ArraySource(examples.images[5:30], examples.labels[5:30], CLASSES)}
        assert named == score_run(run_of(), alone, "test", new_reporter())

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_the_unreadable_are_counted_and_the_others_scored(self, run_of, feed):
        examples = random_examples(37)
        damaged = {"test": DamagedSource(examples.images, examples.labels, CLASSES)}
        scores = score_run(run_of(feed), damaged, "test", new_reporter())
        readable = {"test": ArraySource(examples.images[1:-1], examples.labels[1:-1], CLASSES)}
        expected = score_run(run_of(feed), readable, "test", new_reporter()) | {"unreadable": 2}
        assert scores == pytest.approx(expected, rel=1e-6)
        assert scores["examples"] == 35

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_too_many_unreadable_ones_are_an_error(self, run_of, feed):
        examples = random_examples(37)
        damaged = {"test": DamagedSource(examples.images, examples.labels, CLASSES)}
        with pytest.raises(UserError, match=r"2 pictures cannot be read, .* test\[36\]"):
            score_run(run_of(feed), damaged, "test", new_reporter(1))

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_nothing_that_can_be_read_is_an_error(self, run_of, feed):
        examples = random_examples(2)
        damaged = {"test": DamagedSource(examples.images, examples.labels, CLASSES)}
        with pytest.raises(UserError, match="not one of"):
            score_run(run_of(feed), damaged, "test", new_reporter())
