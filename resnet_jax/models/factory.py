"""Models from names and settings."""

import fnmatch

import jax.numpy as jnp
from ml_collections import ConfigDict

from resnet_jax.errors import UserError, unknown_name
from resnet_jax.models.layers import NORMS, NORMS_WITH_SCALE
from resnet_jax.models.resnet import STEMS, FixupBlock, PreActivationBlock, ResNet, basic
from resnet_jax.models.variants import VARIANTS

OF_FIXUP = {
    "norm": "scalar_bias",
    "weight_standardization": False,
    "residual_scale": None,
    "zero_init_residual": False,
}
CHOICES = {"stem": STEMS, "shortcut": ("projection", "average_pool", "pad"), "norm": NORMS}


def create_model(name: str, num_classes: int, **settings) -> ResNet:
    """The Linen module of a named variant.

    Args:
      name: a key of `VARIANTS`, such as "resnet50".
      num_classes: logits given out.
      **settings: attributes of `ResNet` that differ from the variant's own: `stem`, `shortcut`, `dtype`, ...

    Returns:
      A module for `init(key, images, train=False)` and `apply(variables, images, train=...)`.

    Raises:
      UserError: for an unknown name, an unknown value of a setting, or settings that do not go together.
    """
    if name not in VARIANTS:
        raise unknown_name("model", name, VARIANTS)
    for setting, choices in CHOICES.items():
        if setting in settings and settings[setting] not in choices:
            raise unknown_name(f"model.{setting}", settings[setting], choices)
    model = VARIANTS[name].make(num_classes=num_classes, **settings)
    if model.shortcut == "pad" and model.residual is not basic:
        raise UserError(f"model.shortcut=pad is defined for basic blocks only: {name} needs model.shortcut=projection")
    if model.norm_group_size and model.norm != "batch_norm":
        raise UserError(f"batch_norm.group_size is for batch_norm, and {name} has {model.norm} instead: set it to 0")
    _check_start(name, model)
    return model


def _check_start(name: str, model: ResNet) -> None:
    """Refuses what cannot learn: two zero factors hide each other's gradients, standardised zeros explode."""
    if model.block is FixupBlock:
        for setting, value in OF_FIXUP.items():
            if getattr(model, setting) != value:
                raise UserError(
                    f"{name} has no norms and starts as the identity by itself: set model.{setting} to {value}"
                )
    if not model.zero_init_residual:
        return
    if model.residual_scale == 0:
        raise UserError("model.residual_scale=0 and model.zero_init_residual do the same: set the latter to False")
    standardized = model.weight_standardization and model.block is PreActivationBlock
    if standardized or (model.norm not in NORMS_WITH_SCALE and model.block is not PreActivationBlock):
        raise UserError(
            f"model.zero_init_residual has nothing in {name} to act on: set it to False, and model.residual_scale=0"
        )


def matching(pattern: str) -> list[str]:
    """The names that contain `pattern`, in which * stands for anything.

    Raises:
      UserError: if there are none.
    """
    names = fnmatch.filter(VARIANTS, f"*{pattern}*")
    if not names:
        raise unknown_name("model", pattern, VARIANTS)
    return names


def from_config(config: ConfigDict, num_classes: int) -> ResNet:
    """The module that a whole `config` asks for."""
    settings = {key: value for key, value in config.model.items() if value is not None}
    settings["dtype"] = jnp.dtype(settings["dtype"])
    return create_model(
        settings.pop("name"),
        num_classes,
        norm_momentum=config.batch_norm.momentum,
        norm_epsilon=config.batch_norm.epsilon,
        norm_group_size=config.batch_norm.group_size,
        **settings,
    )
