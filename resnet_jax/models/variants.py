"""The named variants: one row each. A new one is one more line."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from ml_collections import ConfigDict

from resnet_jax.errors import UserError, unknown_name
from resnet_jax.models.blocks import BasicBlock, BottleneckBlock
from resnet_jax.models.resnet import ResNet

# He et al. 2015, table 1 (in its v1.5 form, see BottleneckBlock) and section 4.2: 6n + 2 layers, n blocks a stage.
_imagenet = functools.partial(ResNet, width=64, stem="imagenet", shortcut="projection")
_cifar = functools.partial(ResNet, width=16, stem="cifar", shortcut="pad", block=BasicBlock)

VARIANTS: dict[str, Callable[..., ResNet]] = {
    "resnet18": functools.partial(_imagenet, stage_sizes=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": functools.partial(_imagenet, stage_sizes=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": functools.partial(_imagenet, stage_sizes=(3, 4, 6, 3), block=BottleneckBlock),
    "resnet101": functools.partial(_imagenet, stage_sizes=(3, 4, 23, 3), block=BottleneckBlock),
    "resnet152": functools.partial(_imagenet, stage_sizes=(3, 8, 36, 3), block=BottleneckBlock),
    "resnet20": functools.partial(_cifar, stage_sizes=(3, 3, 3)),
    "resnet32": functools.partial(_cifar, stage_sizes=(5, 5, 5)),
    "resnet44": functools.partial(_cifar, stage_sizes=(7, 7, 7)),
    "resnet56": functools.partial(_cifar, stage_sizes=(9, 9, 9)),
    "resnet110": functools.partial(_cifar, stage_sizes=(18, 18, 18)),
}
CHOICES = {"stem": ("imagenet", "cifar"), "shortcut": ("projection", "pad")}


def create_model(name: str, num_classes: int, **settings) -> ResNet:
    """The Linen module of a named variant.

    Args:
      name: a key of `VARIANTS`, such as "resnet50".
      num_classes: logits given out.
      **settings: attributes of `ResNet` that differ from the variant's own: `stem`, `shortcut`, `dtype`, ...

    Returns:
      A module for `init(key, images, train=False)` and `apply(variables, images, train=...)`.

    Raises:
      UserError: for an unknown name or an unknown value of a setting.
    """
    if name not in VARIANTS:
        raise unknown_name("model", name, VARIANTS)
    for setting, choices in CHOICES.items():
        if settings.get(setting, choices[0]) not in choices:
            raise unknown_name(f"model.{setting}", settings[setting], choices)
    model = VARIANTS[name](num_classes=num_classes, **settings)
    if model.shortcut == "pad" and model.block.expansion > 1:
        raise UserError(f"model.shortcut=pad is defined for basic blocks only: {name} needs model.shortcut=projection")
    return model


def from_config(config: ConfigDict, num_classes: int) -> ResNet:
    """The module that a whole `config` asks for."""
    chosen = {key: config.model[key] for key in CHOICES if config.model[key] is not None}
    return create_model(
        config.model.name,
        num_classes,
        dtype=jnp.dtype(config.model.dtype),
        zero_init_residual=config.model.zero_init_residual,
        norm_momentum=config.batch_norm.momentum,
        norm_epsilon=config.batch_norm.epsilon,
        **chosen,
    )
