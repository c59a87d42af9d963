import jax
import numpy as np
import optax
import pytest

from resnet_jax import config as settings
from resnet_jax import parallel
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.examples import Examples
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.sources import ArraySource
from resnet_jax.data.unreadable import UnreadablePictures
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import make_evaluate, score_run
from resnet_jax.models.creation import create_model
from resnet_jax.run import Run

PREPROCESS = Preprocess((0.5,), (0.25,))
CLASSES = tuple("0123456789")


class DamagedSource(ArraySource):
    """The first and the last picture cannot be read."""

    def __getitem__(self, index):
        if index in (0, len(self) - 1):
            raise Unreadable("it is wet")
        return super().__getitem__(index)


def random_examples(size):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (size, 8, 8, 1), np.uint8)
    return Examples(images, generator.integers(0, 10, size).astype(np.int32))


@pytest.fixture
def model_and_variables():
    model = create_model("tiny", 10)
    return model, model.init(jax.random.key(0), np.zeros((1, 8, 8, 1)), train=False)


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
        return Run(config, CLASSES, model, placed, PREPROCESS, 0, mesh)

    return make


def bear_with(most=100):
    return UnreadablePictures(most, lambda line: None)


@pytest.mark.parametrize("batch_size", [16, 64, 20])
def test_each_example_is_judged_once_whatever_the_batches(model_and_variables, mesh, batch_size):
    """Batches that do not divide the examples, exceed them, or do not divide over the eight devices."""
    model, variables = model_and_variables
    examples = random_examples(37)
    outcomes = make_evaluate(model, PREPROCESS, batch_size, mesh)(variables, examples)
    logits = model.apply(variables, PREPROCESS(examples.images), train=False)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels)
    np.testing.assert_allclose(outcomes.loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(outcomes.prediction, logits.argmax(-1))
    assert outcomes.position.tolist() == list(range(37))
    assert outcomes.label.tolist() == examples.labels.tolist()
    assert outcomes.in_top5.shape == (37,)


def test_other_examples_and_other_variables_need_no_new_program(model_and_variables, single_device):
    model, variables = model_and_variables
    traced = []

    def preprocess(images):
        traced.append(images.shape)
        return PREPROCESS(images)

    evaluate = make_evaluate(model, preprocess, 16, single_device)
    one = evaluate(variables, random_examples(5))
    other = evaluate(jax.tree.map(lambda leaf: leaf + 1, variables), random_examples(37))
    assert (len(one.loss), len(other.loss)) == (5, 37)
    assert traced == [(16, 8, 8, 1)]


def test_outcomes_are_in_host_memory(model_and_variables, mesh):
    model, variables = model_and_variables
    outcomes = make_evaluate(model, PREPROCESS, 16, mesh)(variables, random_examples(5))
    assert {type(part) for part in outcomes[:-1]} == {np.ndarray}


class TestScoringARun:
    def test_data_of_other_classes_is_refused(self, run_of):
        examples = random_examples(10)
        sources = {"test": ArraySource(examples.images, examples.labels, tuple("abcdefghij"))}
        with pytest.raises(UserError, match="but the data has the 10 classes a, b"):
            score_run(run_of(), sources, "test", bear_with())

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_scores_all_of_a_split(self, run_of, feed):
        examples = random_examples(37)
        sources = {"test": ArraySource(examples.images, examples.labels, CLASSES)}
        run = run_of(feed)
        scores = score_run(run, sources, "test", bear_with())
        logits = run.model.apply(jax.device_get(run.variables), PREPROCESS(examples.images), train=False)
        assert (scores["examples"], scores["unreadable"]) == (37, 0)
        assert scores["top1"] == (np.asarray(logits).argmax(-1) == examples.labels).mean()
        assert set(scores) == {"loss", "top1", "top5", "examples", "unreadable"}

    def test_scores_the_examples_that_are_named(self, run_of):
        examples = random_examples(37)
        sources = {"test": ArraySource(examples.images, examples.labels, CLASSES)}
        named = score_run(run_of(), sources, "test[5:30]", bear_with())
        alone = {"test": ArraySource(examples.images[5:30], examples.labels[5:30], CLASSES)}
        assert named == score_run(run_of(), alone, "test", bear_with())

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_the_unreadable_are_counted_and_the_others_scored(self, run_of, feed):
        examples = random_examples(37)
        damaged = {"test": DamagedSource(examples.images, examples.labels, CLASSES)}
        scores = score_run(run_of(feed), damaged, "test", bear_with())
        readable = {"test": ArraySource(examples.images[1:-1], examples.labels[1:-1], CLASSES)}
        expected = score_run(run_of(feed), readable, "test", bear_with()) | {"unreadable": 2}
        assert scores == pytest.approx(expected, rel=1e-6)
        assert scores["examples"] == 35

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_too_many_unreadable_ones_are_an_error(self, run_of, feed):
        examples = random_examples(37)
        damaged = {"test": DamagedSource(examples.images, examples.labels, CLASSES)}
        with pytest.raises(UserError, match=r"2 pictures cannot be read, .* test\[36\]"):
            score_run(run_of(feed), damaged, "test", bear_with(1))

    @pytest.mark.parametrize("feed", ["resident", "streaming"])
    def test_nothing_that_can_be_read_is_an_error(self, run_of, feed):
        examples = random_examples(2)
        damaged = {"test": DamagedSource(examples.images, examples.labels, CLASSES)}
        with pytest.raises(UserError, match="not one of"):
            score_run(run_of(feed), damaged, "test", bear_with())
