"""`create_model` with and without public weights, which are read from a file in place of a download."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax
from resnet_jax import randomness
from resnet_jax.errors import UserError
from resnet_jax.models.variants import VARIANTS
from tests.pretrained import public_tiny


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_create_model_returns_the_model_and_the_default_weights(downloaded):
    model, variables = resnet_jax.create_model("tiny", pretrained=True)
    assert downloaded == ["hf://owner/tiny.first"]
    assert_equal(variables, public_tiny.variables("first"))
    assert model.apply(variables, jnp.zeros((2, 8, 8, 3)), train=False).shape == (2, 10)


def test_create_model_accepts_a_tag(downloaded):
    _, variables = resnet_jax.create_model("tiny", 10, pretrained="second")
    assert downloaded == ["hf://owner/tiny.second"]
    assert_equal(variables, public_tiny.variables("second"))


def test_other_number_of_classes_gives_a_new_head_of_seed_zero(downloaded, caplog):
    with caplog.at_level(logging.INFO, "resnet_jax"):
        model, variables = resnet_jax.create_model("tiny", num_classes=3, pretrained=True)
    key = randomness.key(0, randomness.Use.INITIAL_WEIGHTS)
    expected = model.init(key, jnp.zeros((1, 8, 8, 3)), train=False)["params"]["head"]
    head = variables["params"].pop("head")
    np.testing.assert_allclose(head["kernel"], expected["kernel"], rtol=1e-6)
    assert head["kernel"].shape == (16, 3)
    assert not head["bias"].any()
    loaded = public_tiny.variables("first")
    del loaded["params"]["head"]
    assert_equal(variables, loaded)
    assert "The head for 3 classes is new, with the initial weights of seed 0." in caplog.messages


def test_model_without_head_has_all_other_weights(downloaded, caplog):
    with caplog.at_level(logging.INFO, "resnet_jax"):
        model, variables = resnet_jax.create_model("tiny", num_classes=0, pretrained=True)
    expected = public_tiny.variables("first")
    del expected["params"]["head"]
    assert_equal(variables, expected)
    assert model.apply(variables, jnp.zeros((2, 8, 8, 3)), train=False).shape == (2, 16)
    assert "is new" not in caplog.text


def test_settings_that_change_the_architecture_are_refused_with_weights(downloaded):
    with pytest.raises(UserError, match=r"trained with model\.activation=relu, but .* gelu\. Set model\.activation"):
        resnet_jax.create_model("tiny", pretrained=True, activation="gelu")
    model, _ = resnet_jax.create_model("tiny", pretrained=True, dtype=jnp.bfloat16)
    assert model.dtype == jnp.bfloat16


def test_create_model_without_weights_downloads_nothing(downloaded):
    assert resnet_jax.create_model("tiny").num_classes == VARIANTS["tiny"].num_classes
    assert resnet_jax.create_model("tiny", 7).num_classes == 7
    assert downloaded == []
