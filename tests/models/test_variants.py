"""The named variants against what is published of them."""

import jax
import jax.numpy as jnp
import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.models.variants import create_model, from_config


def parameter_count(model, shape=(1, 32, 32, 3)):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


# Published by torchvision for 1000 classes, and by akamaster/pytorch_resnet_cifar10 for the CIFAR networks, which
# He et al. 2015, table 6, round.
@pytest.mark.parametrize(
    ("name", "num_classes", "parameters"),
    [
        ("resnet18", 1000, 11_689_512),
        ("resnet34", 1000, 21_797_672),
        ("resnet50", 1000, 25_557_032),
        ("resnet101", 1000, 44_549_160),
        ("resnet152", 1000, 60_192_808),
        ("resnet20", 10, 269_722),
        ("resnet32", 10, 464_154),
        ("resnet44", 10, 658_586),
        ("resnet56", 10, 853_018),
        ("resnet110", 10, 1_727_962),
    ],
)
def test_parameter_count_is_the_published_one(name, num_classes, parameters):
    assert parameter_count(create_model(name, num_classes)) == parameters


def test_option_b_adds_just_its_projections():
    """Two 1x1 convolutions, 16 to 32 and 32 to 64 channels, each with the scale and bias of a norm."""
    added = parameter_count(create_model("resnet20", 10, shortcut="projection")) - 269_722
    assert added == (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def test_cifar_stem_is_a_small_convolution():
    """3x3 in place of 7x7, over 3 channels to 64."""
    difference = parameter_count(create_model("resnet18", 10)) - parameter_count(
        create_model("resnet18", 10, stem="cifar")
    )
    assert difference == (49 - 9) * 3 * 64


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet19", {}, "unknown model 'resnet19': did you mean resnet18"),
        ("resnet18", {"stem": "cifr"}, "unknown model.stem 'cifr': did you mean cifar"),
        ("resnet18", {"shortcut": "padd"}, "unknown model.shortcut 'padd': did you mean pad"),
        ("resnet50", {"shortcut": "pad"}, "defined for basic blocks only"),
    ],
)
def test_unknown_names_are_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        create_model(name, 10, **settings)


def test_settings_reach_the_model():
    config = settings.default()
    config.model.name, config.model.stem, config.model.dtype = "resnet18", "cifar", "bfloat16"
    config.model.zero_init_residual = True
    config.batch_norm.momentum, config.batch_norm.epsilon = 0.8, 1e-3
    model = from_config(config, 7)
    assert (model.num_classes, model.stem, model.dtype) == (7, "cifar", jnp.bfloat16)
    assert (model.zero_init_residual, model.norm_momentum, model.norm_epsilon) == (True, 0.8, 1e-3)
    assert model.shortcut == "projection"  # The variant's own.
