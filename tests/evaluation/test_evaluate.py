import jax
import numpy as np
import optax
import pytest

from resnet_jax import config as settings
from resnet_jax import parallel
from resnet_jax.data.examples import Examples
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.sources import ArraySource
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import make_evaluate, padded_batches, score_run
from resnet_jax.models.variants import create_model
from resnet_jax.run import Run

PREPROCESS = Preprocess((0.5,), (0.25,))


def random_examples(size):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (size, 8, 8, 1), np.uint8)
    return Examples(images, generator.integers(0, 10, size).astype(np.int32))


@pytest.fixture
def model_and_variables():
    model = create_model("tiny", 10)
    return model, model.init(jax.random.key(0), np.zeros((1, 8, 8, 1)), train=False)


def test_batches_hold_every_example_once_and_have_one_shape():
    examples = random_examples(37)
    batches = list(padded_batches(examples, 16))
    assert [images.shape for images, _ in batches] == [(16, 8, 8, 1)] * 3
    np.testing.assert_array_equal(np.concatenate([images for images, _ in batches])[:37], examples.images)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches])[:37], examples.labels)


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
    assert outcomes.in_top5.shape == (37,)


def test_data_of_other_classes_is_refused(model_and_variables, mesh):
    model, variables = model_and_variables
    examples = random_examples(10)
    sources = {"test": ArraySource(examples.images, examples.labels, tuple("abcdefghij"))}
    run = Run(settings.default(), tuple("0123456789"), model, variables, PREPROCESS, 0, mesh)
    with pytest.raises(UserError, match="but the data has the classes"):
        score_run(run, sources, "test")


def test_scores_all_of_a_split(model_and_variables, mesh):
    model, variables = model_and_variables
    config = settings.default()
    config.batch_size = 16
    examples = random_examples(37)
    sources = {"test": ArraySource(examples.images, examples.labels, tuple("0123456789"))}
    variables = parallel.place(variables, parallel.replicated(mesh))
    scores = score_run(Run(config, tuple("0123456789"), model, variables, PREPROCESS, 0, mesh), sources, "test")
    logits = model.apply(jax.device_get(variables), PREPROCESS(examples.images), train=False)
    assert scores["examples"] == 37
    assert scores["top1"] == (np.asarray(logits).argmax(-1) == examples.labels).mean()
