"""The probe of features, on a tiny model pre-trained on digits."""

import dataclasses

import jax
import numpy as np
import pytest

import resnet_jax
from resnet_jax import config as settings
from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation.metrics import wilson_interval
from resnet_jax.evaluation.probe import RANDOM, format_results, probe, with_random_weights
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run

QUIET = Reporter(active=False, max_unreadable=0)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The directory of `pretrained`, which the first test that uses it creates."""
    return tmp_path_factory.mktemp("runs") / "pretrained"


@pytest.fixture
def pretrained(tiny_config, workdir):
    """The model of a run without labels."""
    if not (workdir / "result.json").exists():
        tiny_config.dataset.test_split = "none"
        tiny_config.dataset.validation_split = "none"
        tiny_config.pretrain.method = "simclr"
        tiny_config.pretrain.projector = (16, 16)
        resnet_jax.train(tiny_config, str(workdir))
    return load_run(str(workdir))


@pytest.fixture
def dataset():
    dataset = settings.default().dataset
    dataset.feed = "resident"
    return dataset


def test_probe_scores_the_features_and_references(pretrained, dataset):
    results = probe({"run": pretrained}, dataset, open_sources("digits"), QUIET, fractions=[1.0, 0.1])
    assert [(result.features, result.fraction) for result in results] == [
        *(("run", 1.0), ("run", 0.1), (RANDOM, 1.0), (RANDOM, 0.1))
    ]
    assert [result.labels for result in results] == [1295, 129, 1295, 129]
    for result in results:
        assert 0.3 < result.top1.value < result.top5.value <= 1
        assert result.top1.interval == wilson_interval(round(359 * result.top1.value), 359)
    assert "linear top-1" in format_results(results)


def test_features_are_those_of_the_model(pretrained, dataset):
    """A model with other weights has other features; the same model has the same ones."""
    sources = open_sources("digits")
    other = with_random_weights(pretrained, Subset.from_split(sources, "train"))
    models = {"first": pretrained, "same": pretrained, "other": other}
    first, same, other, _ = probe(models, dataset, sources, QUIET, fractions=[0.1])
    assert first.top1 == same.top1
    assert first.top1 != other.top1


def test_overlapping_splits_are_rejected(pretrained, dataset):
    dataset.train_split, dataset.validation_split = "train+test", "train[:100]"
    with pytest.raises(UserError, match="overlap"):
        probe({"run": pretrained}, dataset, open_sources("digits"), QUIET)


def test_random_weights_have_the_batch_statistics_of_the_images(pretrained):
    """The first 256 of them, in the layer after the first convolution."""
    source = open_sources("digits")["train"]
    random = with_random_weights(pretrained, Subset.from_split({"train": source}, "train"))
    batch, kernel = pretrained.preprocess(source.images[:256]), random.variables["params"]["stem_conv"]["kernel"]
    layout = ("NHWC", "HWIO", "NHWC")
    activations = jax.lax.conv_general_dilated(batch, kernel, (1, 1), "SAME", dimension_numbers=layout)
    stem = random.variables["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(stem["mean"], activations.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stem["var"], activations.var((0, 1, 2)), rtol=1e-4)


def test_random_weights_do_not_depend_on_how_the_model_is_regularized(pretrained):
    subset = Subset.from_split(open_sources("digits"), "train")
    model = pretrained.model.clone(dropout=0.5, stochastic_depth=0.5, norm_group_size=7)
    regularized = with_random_weights(dataclasses.replace(pretrained, model=model), subset)
    jax.tree.map(
        np.testing.assert_array_equal, regularized.variables, with_random_weights(pretrained, subset).variables
    )


@pytest.mark.parametrize("purpose", ["validation", "test"])
def test_missing_split_is_rejected(pretrained, dataset, purpose):
    dataset[f"{purpose}_split"] = "none"
    with pytest.raises(
        UserError, match=f"needs a {purpose} split. Give --config=RECIPE --config.dataset.{purpose}_split"
    ):
        probe({"run": pretrained}, dataset, open_sources("digits"), QUIET)


def test_fraction_without_two_classes_is_rejected(pretrained, dataset):
    with pytest.raises(UserError, match=r"0\.10% of the training labels are 0 examples.*larger --fractions"):
        probe({"run": pretrained}, dataset, open_sources("digits"), QUIET, fractions=[0.001])


def test_pretrained_model_predicts_no_classes(pretrained):
    with pytest.raises(UserError, match=r"pre-trained by simclr and predicts no classes.*probe.*--config\.init_from"):
        pretrained.predict(np.zeros((1, 8, 8, 1), np.uint8))
