"""Create a model, with public weights on request: `resnet_jax.create_model`."""

import logging
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp

from resnet_jax import randomness
from resnet_jax.errors import unknown_name
from resnet_jax.models import factory, public_weights
from resnet_jax.models.public_weights import PublicWeights
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import VARIANTS
from resnet_jax.randomness import Use

logger = logging.getLogger(__name__)

SEED_OF_NEW_HEAD = 0


@overload
def create_model(
    name: str, num_classes: int | None = None, pretrained: Literal[False] = False, **settings: Any
) -> ResNet: ...


@overload
def create_model(
    name: str, num_classes: int | None = None, *, pretrained: Literal[True] | str, **settings: Any
) -> tuple[ResNet, dict]: ...


def create_model(
    name: str, num_classes: int | None = None, pretrained: bool | str = False, **settings: Any
) -> ResNet | tuple[ResNet, dict]:
    """Return the Linen module of a named model, or the module and its public weights.

    Public weights are downloaded from the Hugging Face hub on first use, and then read from the local cache; see
    `hub.download`. They need the extra "hub". Their images are float32 [batch, height, width, 3], with
    pixels in [0, 1] from which `mean` is subtracted, divided by `std`; see `models.public_weights.find`.

    Args:
      name: a name that `list_models` returns, such as "resnet50".
      num_classes: the number of logits; 0: no head; None: that of the weights or, without weights, that of the dataset
        that the model was proposed for. If it differs from that of the weights, the head is new: it has initial weights
        that are a function of the seed 0.
      pretrained: False: no weights; True: the default weights of the model; or the tag of others, such as "a1_in1k".
      **settings: attributes of `ResNet` that override those of the variant: `dtype`, `remat`, ... With weights, those
        that change the architecture are refused.

    Returns:
      The module, with the usual `init(key, images, train=False)` and `apply(variables, images, train=...)`. With
      `pretrained`, the module and its variables `{"params": ..., "batch_stats": ...}`, float32 arrays on the default
      device. Models without BatchNorm have no "batch_stats".

    Raises:
      UserError: if the name or the value of a setting is unknown; if settings contradict each other; if there are no
        such weights, or they cannot be downloaded, are damaged or do not fit.

    Example:
      >>> create_model("resnet50", num_classes=10).num_classes
      10
      >>> model, variables = create_model("resnet50", pretrained=True)  # doctest: +SKIP
      >>> images = jnp.zeros((1, 288, 288, 3))
      >>> model.apply(variables, images, train=False).shape  # doctest: +SKIP
      (1, 1000)
    """
    if not pretrained:
        if name not in VARIANTS:
            raise unknown_name("model", name, VARIANTS)
        if num_classes is None:
            num_classes = VARIANTS[name].num_classes
        return factory.create_model(name, num_classes, **settings)
    row = public_weights.find(name, None if pretrained is True else pretrained)
    model = factory.create_model(name, row.num_classes if num_classes is None else num_classes, **settings)
    return model, _public_variables(model, name, row)


def _public_variables(model: ResNet, name: str, row: PublicWeights) -> dict:
    """Return the variables of `model` from public weights, with a new head if they are for other classes."""
    # This imports the packages that read data and checkpoints, which takes seconds. Models without weights do not need
    # them.
    from resnet_jax.pretrained import load

    weights = load.open_public(name, row.tag)
    channels = len(row.mean)
    variables, report = weights.variables(model, channels, weights.classes or ())
    logger.info(f"Weights of {weights.path}: {report}")
    if model.num_classes and "head" not in variables["params"]:
        logger.info(f"The head for {model.num_classes} classes is new, with the initial weights of seed 0.")
        images = jnp.zeros((1, 32, 32, channels))  # The height and width make no difference.
        key = randomness.key(SEED_OF_NEW_HEAD, Use.INITIAL_WEIGHTS)
        # Under `jit`, XLA computes only what is returned: the head, without the other layers.
        variables["params"]["head"] = jax.jit(lambda: model.init(key, images, train=False)["params"]["head"])()
    return jax.tree.map(jnp.asarray, variables)
