"""The table of self-supervised methods: what each one trains, and its loss."""

import dataclasses
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from resnet_jax.errors import unknown_name
from resnet_jax.selfsupervised import view_losses
from resnet_jax.selfsupervised.view_losses import Views


@dataclasses.dataclass(frozen=True)
class Method:
    """A self-supervised method.

    Attributes:
      loss: the mean loss of a batch, from the predictions of the online network, the projections of its target, and
        `pretrain.temperature`.
      projector: the widths of the projector's layers in the paper, for ImageNet.
      predictor: those of the predictor; empty: none.
      normalizes_projections: whether a BatchNorm follows the last layer of the projector.
      has_target: whether the target is a moving average of the online network; otherwise it is this network itself.
    """

    loss: Callable[[Views, Views, float], jax.Array]
    projector: tuple[int, ...]
    predictor: tuple[int, ...] = ()
    normalizes_projections: bool = False
    has_target: bool = False


METHODS: dict[str, Method] = {
    "barlow_twins": Method(  # Zbontar et al. 2021, section 2.2
        loss=lambda projections, *_: view_losses.barlow_twins(projections),
        projector=(8192, 8192, 8192),
    ),
    "vicreg": Method(  # Bardes et al. 2022, section 4.2
        loss=lambda projections, *_: view_losses.vicreg(projections),
        projector=(8192, 8192, 8192),
    ),
    "byol": Method(  # Grill et al. 2020, section 3.3
        loss=lambda predictions, targets, _: view_losses.byol(predictions, targets),
        projector=(4096, 256),
        predictor=(4096, 256),
        has_target=True,
    ),
    "simclr": Method(  # Chen et al. 2020, section 2.1
        loss=lambda projections, _, temperature: view_losses.nt_xent(projections, temperature),
        projector=(2048, 128),
    ),
    "simsiam": Method(  # Chen & He 2021, section 3
        loss=lambda predictions, targets, _: view_losses.simsiam(predictions, targets),
        projector=(2048, 2048, 2048),
        predictor=(512, 2048),
        normalizes_projections=True,
    ),
}


def has_target(pretrain: ConfigDict) -> bool:
    """Return whether a run with these `pretrain` settings keeps a moving average only as a target."""
    return pretrain.method is not None and find(pretrain.method).has_target


def find(name: str) -> Method:
    """Return the method of this name; raises `UserError` if there is none."""
    if name not in METHODS:
        raise unknown_name("pretrain.method", name, METHODS)
    return METHODS[name]
