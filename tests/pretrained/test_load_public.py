"""`init_from="pretrained"`, with public weights that are read from a file in place of a download."""

import logging

import jax
import numpy as np
import pytest

from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.errors import UserError
from resnet_jax.pretrained.load import load_pretrained, load_pretrained_without_data, open_initial_weights
from resnet_jax.terminal import Reporter
from resnet_jax.training import experiment
from tests.pretrained import public_tiny


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize(
    ("init_from", "tag"),
    [("pretrained", "first"), ("pretrained:second", "second"), ("hf://owner/tiny.second", "second")],
)
def test_init_from_loads_public_weights_of_the_model(downloaded, tiny_config, single_device, caplog, init_from, tag):
    tiny_config.init_from = init_from
    with caplog.at_level(logging.INFO, "resnet_jax"):
        built = experiment.build(
            tiny_config, single_device, open_sources("digits"), Reporter(active=False, max_unreadable=0)
        )
        state = built.initial_state()
    assert_equal(state.variables, public_tiny.variables(tag))
    dataset = built.config.dataset
    assert (dataset.mean, dataset.std, dataset.image_size) == (public_tiny.MEAN, public_tiny.STD, 8)
    assert built.config.init_from == init_from
    assert any(
        f"Using the values that are published for hf://owner/tiny.{tag}: dataset.mean=(0.5" in message
        for message in caplog.messages
    )
    assert f"Weights of hf://owner/tiny.{tag}: 27 of 27 arrays loaded (named as in torchvision)" in caplog.messages


def test_init_from_keeps_dataset_settings_that_are_set(downloaded, tiny_config):
    tiny_config.init_from = "pretrained"
    tiny_config.dataset.mean, tiny_config.dataset.std = (0.1, 0.1, 0.1), (0.2, 0.2, 0.2)
    loaded = load_pretrained(tiny_config, open_initial_weights(tiny_config), open_sources("digits"))
    assert_equal(loaded.variables, public_tiny.variables("first"))
    assert loaded.config.dataset.mean == (0.1, 0.1, 0.1)


def test_public_weights_load_without_the_dataset(downloaded, tiny_config, caplog):
    tiny_config.init_from = "pretrained"
    loaded = load_pretrained_without_data(tiny_config, open_initial_weights(tiny_config))
    assert_equal(loaded.variables, public_tiny.variables("first"))
    assert loaded.classes == tuple("0123456789")
    dataset = loaded.config.dataset
    assert (dataset.image_size, dataset.eval_resize) == (8, public_tiny.EVAL_RESIZE)
    assert caplog.messages == ["The classes are called 0, 1, 2, ..., because only the dataset would name them."]


def test_settings_that_differ_from_the_published_ones_are_kept_with_a_warning(downloaded, tiny_config, caplog):
    dataset = tiny_config.dataset
    tiny_config.init_from, dataset.image_size = "pretrained", 9
    dataset.mean, dataset.std = (0.1, 0.1, 0.1), (0.2, 0.2, 0.2)
    loaded = load_pretrained_without_data(tiny_config, open_initial_weights(tiny_config))
    assert (loaded.config.dataset.image_size, loaded.config.dataset.mean) == (9, (0.1, 0.1, 0.1))
    mean_warning, _, size_warning = caplog.messages
    mean, std = public_tiny.MEAN, public_tiny.STD
    assert mean_warning.endswith(f'To use these: --config.dataset.mean="{mean}" --config.dataset.std="{std}"')
    assert size_warning.endswith(
        "--config.dataset.image_size=8 --config.dataset.eval_crop=8 --config.dataset.eval_resize=10"
    )


def test_init_from_gives_a_new_head_for_other_classes(downloaded, tiny_config, single_device):
    digits = open_sources("digits")["train"]
    sources = {"train": ArraySource(digits.images, digits.labels % 3, ("0", "1", "2"))}
    tiny_config.init_from, tiny_config.dataset.test_split, tiny_config.dataset.validation_split = (
        "pretrained",
        "none",
        "none",
    )
    built = experiment.build(tiny_config, single_device, sources, Reporter(active=False, max_unreadable=0))
    params = built.initial_state().params
    assert params["head"]["kernel"].shape == (16, 3)
    assert_equal(params["stem_conv"], public_tiny.variables("first")["params"]["stem_conv"])


@pytest.mark.parametrize(
    ("name", "init_from", "message"),
    [
        ("resnet20", "pretrained", "resnet20 has no public weights"),
        ("resnet50", "pretrained:b1_in1k", "resnet50 has no public weights 'b1_in1k'. Choose one of a1_in1k, a1h_in1k"),
    ],
)
def test_unknown_weights_are_refused_before_anything_is_downloaded(
    tiny_config, single_device, downloaded, name, init_from, message
):
    tiny_config.model.name, tiny_config.init_from = name, init_from
    with pytest.raises(UserError, match=message):
        experiment.check(tiny_config, single_device)
    assert downloaded == []
