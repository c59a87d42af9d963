"""Build models from names and settings."""

import fnmatch

import jax.numpy as jnp
from ml_collections import ConfigDict

from resnet_jax.errors import UserError, program, unknown_name
from resnet_jax.models import public_weights
from resnet_jax.models.layers import ACTIVATIONS, NORMS, NORMS_WITH_SCALE
from resnet_jax.models.resnet import (
    STEMS,
    FixupBlock,
    MaxPoolBlock,
    PlainMaxPoolBlock,
    PreActivationBlock,
    ResNet,
    basic,
)
from resnet_jax.models.variants import VARIANTS

CHOICES = {
    "stem": STEMS,
    "shortcut": ("projection", "average_pool", "pad"),
    "norm": NORMS,
    "activation": ACTIVATIONS,
}
# Fixup's own initialization makes each block start as the identity. This works only with these settings.
FIXUP_SETTINGS = {
    "norm": "scalar_bias",
    "weight_standardization": False,
    "residual_scale": None,
    "zero_init_residual": False,
}


def create_model(name: str, num_classes: int, **settings) -> ResNet:
    """Return the Linen module of a named variant.

    Args:
      name: a key of `VARIANTS`, such as "resnet50".
      num_classes: the number of logits; 0: no head, and the model returns the pooled features.
      **settings: attributes of `ResNet` that override those of the variant: `stem`, `shortcut`, `dtype`, ...

    Returns:
      A module with the usual `init(key, images, train=False)` and `apply(variables, images, train=...)`.

    Raises:
      UserError: if the name or the value of a setting is unknown, or if settings contradict each other.

    Example:
      >>> import jax
      >>> model = create_model("resnet20", num_classes=10, stage_sizes=(1, 1, 1))
      >>> images = jnp.zeros((2, 8, 8, 3))
      >>> logits, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False))
      >>> logits.shape
      (2, 10)
    """
    if name not in VARIANTS:
        raise unknown_name("model", name, VARIANTS)
    for setting, choices in CHOICES.items():
        value = settings.get(setting)
        if isinstance(value, str) and value not in choices:  # An activation may also be a function.
            raise unknown_name(f"model.{setting}", value, choices)
    model = VARIANTS[name].make(num_classes=num_classes, **settings)
    if model.shortcut == "pad" and model.residual is not basic:
        raise UserError(
            f"model.shortcut=pad works only with basic blocks, and {name} has others. Set model.shortcut=projection."
        )
    if model.shortcut == "pad" and model.stem == "whitening":
        raise UserError(
            "model.shortcut=pad does not work with model.stem=whitening, which may have more channels than the first "
            "block. Set model.shortcut=projection."
        )
    if issubclass(model.block, MaxPoolBlock) and model.blur_pool:
        raise UserError(f"model.blur_pool does not work with the max-pools of {name}. Set model.blur_pool=False.")
    if issubclass(model.block, MaxPoolBlock) and "shortcut" in settings:
        raise UserError(f"model.shortcut has no effect on {name}, whose blocks have their own. Leave it unset.")
    if model.block is PlainMaxPoolBlock:
        needs_shortcut = {
            "zero_init_residual": model.zero_init_residual,
            "residual_scale": model.residual_scale is not None,
            "stochastic_depth": model.stochastic_depth > 0,
        }
        for setting, is_set in needs_shortcut.items():
            if is_set:
                raise UserError(f"model.{setting} does not work with {name}, which has no shortcuts. Leave it unset.")
    if model.norm_group_size and model.norm != "batch_norm":
        raise UserError(
            f"batch_norm.group_size works only with batch_norm, and {name} has {model.norm}. "
            "Set batch_norm.group_size=0."
        )
    _check_initial_state(name, model)
    return model


def _check_initial_state(name: str, model: ResNet) -> None:
    """Raise `UserError` if the settings for initial values have no effect, or keep the model from learning.

    If two factors of a product both start at zero, neither ever gets a gradient. Weight standardization makes the
    gradients of an all-zero kernel explode.
    """
    if model.block is FixupBlock:
        for setting, value in FIXUP_SETTINGS.items():
            if getattr(model, setting) != value:
                raise UserError(
                    f"model.{setting}={getattr(model, setting)} does not work with {name}, which has no norms and "
                    f"starts as the identity anyway. Set model.{setting}={value}."
                )
    if not model.zero_init_residual:
        return
    if model.residual_scale == 0:
        raise UserError(
            "model.residual_scale=0 and model.zero_init_residual=True have the same effect. "
            "Set model.zero_init_residual=False."
        )
    if model.block is PreActivationBlock:
        if model.weight_standardization:
            raise UserError(
                f"model.zero_init_residual=True does not work with {name}: it starts convolutions at zero, and weight "
                "standardization makes the gradients of an all-zero kernel explode. "
                "Set model.zero_init_residual=False and model.residual_scale=0."
            )
    elif model.norm not in NORMS_WITH_SCALE:
        raise UserError(
            f"model.zero_init_residual=True does not work with {name}: it starts the scale of each block's last norm "
            f"at zero, and model.norm={model.norm} has no scale. "
            "Set model.zero_init_residual=False and model.residual_scale=0."
        )


def list_models(pattern: str = "", pretrained: bool = False) -> list[str]:
    """Return the model names that contain `pattern`, in which `*` stands for any characters.

    Args:
      pattern: what the names contain; by default, all names match.
      pretrained: whether to return only models that have public weights; see `public_weights.PUBLIC_WEIGHTS`.

    Raises:
      UserError: if no name matches.

    Example:
      >>> list_models("wide*_2")
      ['wide_resnet50_2', 'wide_resnet101_2', 'wide_resnet40_2']
      >>> list_models("wide*_2", pretrained=True)
      ['wide_resnet50_2', 'wide_resnet101_2']
    """
    names = fnmatch.filter(VARIANTS, f"*{pattern}*")
    if not names:
        raise unknown_name("model", pattern, VARIANTS)
    if pretrained:
        names = [name for name in names if name in public_weights.PUBLIC_WEIGHTS]
        if not names:
            raise UserError(
                f"no model that matches {pattern!r} has public weights. To list all that have some, run: "
                f"{program()} models --pretrained"
            )
    return names


def from_config(config: ConfigDict, num_classes: int) -> ResNet:
    """Return the module that the `model` and `batch_norm` settings of `config` describe.

    Example:
      >>> from resnet_jax.config import default
      >>> config = default()
      >>> config.model.name = "resnet20"
      >>> from_config(config, num_classes=10).stage_sizes
      (3, 3, 3)
    """
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
