import jax.numpy as jnp
import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.models.creation import create_model, from_config, matching


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet19", {}, "unknown model 'resnet19': did you mean resnet18"),
        ("resnet18", {"stem": "cifr"}, "unknown model.stem 'cifr': did you mean cifar"),
        ("resnet18", {"shortcut": "padd"}, "unknown model.shortcut 'padd': did you mean pad"),
        ("resnet18", {"norm": "batchnorm"}, "unknown model.norm 'batchnorm': did you mean batch_norm"),
        ("resnet50", {"shortcut": "pad"}, "defined for basic blocks only"),
        ("fixup_resnet50", {"norm": "batch_norm"}, "without normalisation: leave model.norm unset"),
        ("resnet20", {"norm": "bias", "zero_init_residual": True}, "model.residual_scale=0 makes resnet20 start"),
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


def test_what_is_unset_is_the_variants_own():
    config = settings.default()
    config.model.name = "bit_r50x1"
    model = from_config(config, 7)
    assert (model.stem, model.norm, model.weight_standardization) == ("bit", "group_norm", True)
    assert (model.shortcut, model.blur_pool, model.squeeze_excitation) == ("projection", False, None)


def test_names_are_matched_by_parts_and_wildcards():
    assert matching("wide*_2") == ["wide_resnet50_2", "wide_resnet101_2", "wide_resnet40_2"]
    assert {"resnet50", "wide_resnet50_2", "seresnet50"} < set(matching("resnet50"))
    with pytest.raises(UserError, match="unknown model 'resnest'"):
        matching("resnest")
