import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.models import variants
from resnet_jax.models.factory import create_model, from_config, list_models


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet19", {}, "unknown model 'resnet19'. Did you mean resnet18"),
        ("resnet18", {"stem": "cifr"}, "unknown model.stem 'cifr'. Did you mean cifar"),
        ("resnet18", {"shortcut": "padd"}, "unknown model.shortcut 'padd'. Did you mean pad"),
        ("resnet18", {"norm": "batchnorm"}, "unknown model.norm 'batchnorm'. Did you mean batch_norm"),
        ("resnet50", {"shortcut": "pad"}, "works only with basic blocks"),
        ("airbench94", {"shortcut": "projection"}, "whose blocks have their own. Leave it unset."),
        (
            "airbench94_plain",
            {"zero_init_residual": True},
            "model.zero_init_residual does not work with airbench94_plain",
        ),
        ("airbench94_plain", {"residual_scale": 0.0}, "model.residual_scale does not work with airbench94_plain"),
        ("airbench94_plain", {"stochastic_depth": 0.1}, "model.stochastic_depth does not work with airbench94_plain"),
        ("fixup_resnet50", {"norm": "batch_norm"}, "identity anyway. Set model.norm=scalar_bias"),
        (
            "fixup_resnet50",
            {"zero_init_residual": True},
            "identity anyway. Set model.zero_init_residual=False",
        ),
        ("fixup_resnet50", {"residual_scale": 0.0}, "identity anyway. Set model.residual_scale=None"),
        (
            "resnet50",
            {"residual_scale": 0.0, "zero_init_residual": True},
            "same effect. Set model.zero_init_residual=False",
        ),
        (
            "resnet20",
            {"norm": "bias", "zero_init_residual": True},
            "zero_init_residual=False and model.residual_scale=0",
        ),
        ("bit_r50x1", {"zero_init_residual": True}, "zero_init_residual=False and model.residual_scale=0"),
        ("bit_r50x1", {"norm_group_size": 8}, "group_size works only with batch_norm, and bit_r50x1 has group_norm"),
    ],
)
def test_create_model_refuses_unknown_names_and_contradictory_settings(name, settings, message):
    with pytest.raises(UserError, match=message):
        create_model(name, 10, **settings)


def test_activation_may_be_a_function():
    assert create_model("resnet20", 10, activation=nn.softplus).activation is nn.softplus


def test_from_config_passes_every_setting_to_the_model():
    config = settings.default()
    expected = {
        "stem": "cifar",
        "shortcut": "average_pool",
        "norm": "group_norm",
        "activation": "silu",
        "weight_standardization": True,
        "blur_pool": True,
        "squeeze_excitation": 8,
        "residual_scale": 0.5,
        "zero_init_residual": True,
        "stochastic_depth": 0.2,
        "dropout": 0.1,
        "remat": True,
        "scan_blocks": True,
        "dtype": "bfloat16",
    }
    assert expected.keys() | {"name"} == set(config.model.keys())
    config.model.update(name="resnet18", **expected)
    config.batch_norm.momentum, config.batch_norm.epsilon = 0.8, 1e-3
    model = from_config(config, 7)
    assert {key: getattr(model, key) for key in expected} == expected | {"dtype": jnp.bfloat16}
    assert (model.num_classes, model.norm_momentum, model.norm_epsilon) == (7, 0.8, 1e-3)
    config.model.norm, config.batch_norm.group_size = "batch_norm", 16
    assert from_config(config, 7).norm_group_size == 16


def test_unset_settings_keep_the_values_of_the_variant():
    config = settings.default()
    config.model.name = "bit_r50x1"
    model = from_config(config, 7)
    assert (model.stem, model.norm, model.weight_standardization) == ("bit", "group_norm", True)
    assert (model.shortcut, model.blur_pool, model.squeeze_excitation) == ("projection", False, None)


def test_variant_may_set_any_attribute(monkeypatch):
    row = variants.VARIANTS["wide_resnet28_10"]
    variant = dataclasses.replace(row, make=functools.partial(row.make, dropout=0.3, stochastic_depth=0.1, remat=True))
    monkeypatch.setitem(variants.VARIANTS, "with_dropout", variant)
    config = settings.default()
    config.model.name = "with_dropout"
    model = from_config(config, 7)
    assert (model.dropout, model.stochastic_depth, model.remat) == (0.3, 0.1, True)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param("tiny", {"zero_init_residual": True}, marks=pytest.mark.slow),
        ("tiny", {"residual_scale": 0.0}),
        pytest.param("tiny", {"norm": "bias", "residual_scale": 0.0}, marks=pytest.mark.slow),
        pytest.param("resnetv2_110", {"zero_init_residual": True}, marks=pytest.mark.slow),
        pytest.param("fixup_resnet110", {"head_init": nn.initializers.normal(0.01)}, id="fixup_resnet110"),
    ],
    ids=str,
)
def test_model_that_starts_as_the_identity_can_learn(name, settings):
    """The gradient of the last block is neither zero nor so large that a step would ruin the model."""
    model = create_model(name, 10, stage_sizes=(1, 1), **settings)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = model.init(jax.random.key(0), images, train=False)

    def loss(params):
        logits, _ = model.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(4)).mean()

    gradient = optax.tree.norm(jax.jit(jax.grad(loss))(variables["params"])["stage2_block1"])
    assert 1e-4 < float(gradient) < 100


def test_list_models_matches_substrings_and_wildcards():
    assert list_models("wide*_2") == ["wide_resnet50_2", "wide_resnet101_2", "wide_resnet40_2"]
    assert {"resnet50", "wide_resnet50_2", "seresnet50"} < set(list_models("resnet50"))
    with pytest.raises(UserError, match="unknown model 'resnest'"):
        list_models("resnest")
