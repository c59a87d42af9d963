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
from resnet_jax.models.factory import create_model, from_config, matching


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet19", {}, "unknown model 'resnet19': did you mean resnet18"),
        ("resnet18", {"stem": "cifr"}, "unknown model.stem 'cifr': did you mean cifar"),
        ("resnet18", {"shortcut": "padd"}, "unknown model.shortcut 'padd': did you mean pad"),
        ("resnet18", {"norm": "batchnorm"}, "unknown model.norm 'batchnorm': did you mean batch_norm"),
        ("resnet50", {"shortcut": "pad"}, "defined for basic blocks only"),
        ("fixup_resnet50", {"norm": "batch_norm"}, "by itself: set model.norm to scalar_bias"),
        ("fixup_resnet50", {"zero_init_residual": True}, "by itself: set model.zero_init_residual to False"),
        ("fixup_resnet50", {"residual_scale": 0.0}, "by itself: set model.residual_scale to None"),
        ("resnet50", {"residual_scale": 0.0, "zero_init_residual": True}, "do the same: set the latter to False"),
        ("resnet20", {"norm": "bias", "zero_init_residual": True}, "set it to False, and model.residual_scale=0"),
        ("bit_r50x1", {"zero_init_residual": True}, "set it to False, and model.residual_scale=0"),
        ("bit_r50x1", {"norm_group_size": 8}, "group_size is for batch_norm, and bit_r50x1 has group_norm"),
    ],
)
def test_unknown_names_and_what_does_not_go_together_are_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        create_model(name, 10, **settings)


def test_settings_reach_the_model():
    config = settings.default()
    wanted = {
        "stem": "cifar",
        "shortcut": "average_pool",
        "norm": "group_norm",
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
    assert wanted.keys() | {"name"} == set(config.model.keys())
    config.model.update(name="resnet18", **wanted)
    config.batch_norm.momentum, config.batch_norm.epsilon = 0.8, 1e-3
    model = from_config(config, 7)
    assert {key: getattr(model, key) for key in wanted} == wanted | {"dtype": jnp.bfloat16}
    assert (model.num_classes, model.norm_momentum, model.norm_epsilon) == (7, 0.8, 1e-3)
    config.model.norm, config.batch_norm.group_size = "batch_norm", 16
    assert from_config(config, 7).norm_group_size == 16


def test_what_is_unset_is_the_variants_own():
    config = settings.default()
    config.model.name = "bit_r50x1"
    model = from_config(config, 7)
    assert (model.stem, model.norm, model.weight_standardization) == ("bit", "group_norm", True)
    assert (model.shortcut, model.blur_pool, model.squeeze_excitation) == ("projection", False, None)


def test_a_row_may_have_any_attribute_of_its_own(monkeypatch):
    row = variants.VARIANTS["wide_resnet28_10"]
    own = dataclasses.replace(row, make=functools.partial(row.make, dropout=0.3, stochastic_depth=0.1, remat=True))
    monkeypatch.setitem(variants.VARIANTS, "with_dropout", own)
    config = settings.default()
    config.model.name = "with_dropout"
    model = from_config(config, 7)
    assert (model.dropout, model.stochastic_depth, model.remat) == (0.3, 0.1, True)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        pytest.param("tiny", {"zero_init_residual": True}, marks=pytest.mark.slow),
        ("tiny", {"residual_scale": 0.0}),
        pytest.param("tiny", {"norm": "bias", "residual_scale": 0.0}, marks=pytest.mark.slow),
        pytest.param("resnetv2_110", {"zero_init_residual": True}, marks=pytest.mark.slow),
        pytest.param("fixup_resnet110", {"head_init": nn.initializers.normal(0.01)}, id="fixup_resnet110"),
    ],
    ids=str,
)
def test_every_way_to_start_as_the_identity_can_be_learned_from(name, start):
    """Some gradient in the last block is not zero, and none is so large that a step would ruin it."""
    model, images = (
        create_model(name, 10, stage_sizes=(1, 1), **start),
        jax.random.normal(jax.random.key(1), (4, 8, 8, 3)),
    )
    variables = model.init(jax.random.key(0), images, train=False)

    def loss(params):
        logits, _ = model.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(4)).mean()

    gradient = optax.global_norm(jax.jit(jax.grad(loss))(variables["params"])["stage2_block1"])
    assert 1e-4 < float(gradient) < 100


def test_names_are_matched_by_parts_and_wildcards():
    assert matching("wide*_2") == ["wide_resnet50_2", "wide_resnet101_2", "wide_resnet40_2"]
    assert {"resnet50", "wide_resnet50_2", "seresnet50"} < set(matching("resnet50"))
    with pytest.raises(UserError, match="unknown model 'resnest'"):
        matching("resnest")
