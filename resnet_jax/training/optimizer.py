"""Optimizers and learning-rate schedules, by name."""

import collections
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from resnet_jax.errors import unknown_name

# --- Learning rates of their own for the parts of a network: less for what has been trained before.


BLOCK = re.compile(r"stage(\d+)_block(\d+)")


def scale_by_part(
    backbone_scale: float, layer_decay: float, stage_sizes: Sequence[int]
) -> optax.GradientTransformation:
    """Multiplies updates by `backbone_scale` but for the head's, and by `layer_decay` for each layer below the head.

    Layers are the blocks and the stem: the last block is decayed once, the one before it twice, and the stem most. A
    norm before the head counts as the last block's. Clark et al. 2020, "ELECTRA", did so first.
    """

    def update(updates: dict, params: dict | None = None) -> dict:
        del params
        factors = part_factors(updates, backbone_scale, layer_decay, stage_sizes)
        return jax.tree.map(lambda update, factor: update * factor, updates, factors)

    return optax.stateless(update)


def part_factors(params: dict, backbone_scale: float, layer_decay: float, stage_sizes: Sequence[int]) -> dict:
    """For each leaf of `params`, which may be some of a network's, the factor of its learning rate."""

    def factor(part: str) -> float:
        if part == "head":
            return 1.0
        if part == "final_norm":
            return backbone_scale * layer_decay
        block = BLOCK.fullmatch(part)
        number = sum(stage_sizes[: int(block[1]) - 1]) + int(block[2]) if block else 0  # The stem lies below the first.
        return backbone_scale * layer_decay ** (sum(stage_sizes) - number + 1)

    return unflatten_dict({path: factor(path[0]) for path in flatten_dict(params)})


class Parts(NamedTuple):
    """What optimizers are put together from.

    Attributes:
      decay: adds the weight decay times the parameters; None where that is zero.
      rate: multiplies by minus the learning rate.
      momentum: a decaying sum of what it is given, with Nesterov's variant as a setting (Sutskever et al. 2013).
      trust_ratio: given a coefficient, scales the update of each array to the coefficient times the norm of the array;
        it leaves an update as it is where either norm is zero.
    """

    decay: optax.GradientTransformation | None
    rate: optax.GradientTransformation
    momentum: optax.GradientTransformation
    trust_ratio: Callable[[float], optax.GradientTransformation]


# The order makes the difference. Weight decay that comes first is an L2 penalty: what follows takes it for a part of
# the gradient. After Adam it is decoupled: the averages of the gradient do not see it.
OPTIMIZERS = {
    "sgd": lambda part: (part.decay, part.momentum, part.rate),
    "adam": lambda part: (part.decay, optax.scale_by_adam(), part.rate),
    "adamw": lambda part: (optax.scale_by_adam(), part.decay, part.rate),
    "lamb": lambda part: (optax.scale_by_adam(eps=1e-6), part.decay, part.trust_ratio(1.0), part.rate),
    "lars": lambda part: (part.decay, part.trust_ratio(0.001), part.rate, part.momentum),
}
SCHEDULES = ("cosine", "linear", "step", "constant")


def check(config: ConfigDict) -> None:
    """Raises `UserError` for an unknown optimizer or schedule."""
    if config.optimizer.name not in OPTIMIZERS:
        raise unknown_name("optimizer", config.optimizer.name, OPTIMIZERS)
    if config.schedule.name not in SCHEDULES:
        raise unknown_name("schedule", config.schedule.name, SCHEDULES)


def make_schedule(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate as a function of the step: linear warm-up from zero, then the named decay.

    "cosine" (Loshchilov & Hutter 2016, equation 5, without restarts) and "linear" would be zero at the step after the
    last; "step" multiplies by `step_factor` at each of `step_epochs`, counted from the start of the run.
    """
    peak, schedule = config.optimizer.learning_rate, config.schedule
    total = config.num_epochs * steps_per_epoch
    warmup = min(round(schedule.warmup_epochs * steps_per_epoch), total - 1)
    if schedule.name == "cosine":
        decay = optax.cosine_decay_schedule(peak, total - warmup)
    elif schedule.name == "linear":
        decay = optax.linear_schedule(peak, 0.0, total - warmup)
    elif schedule.name == "step":
        boundaries = collections.Counter(round(epoch * steps_per_epoch) - warmup for epoch in schedule.step_epochs)
        factors = {boundary: schedule.step_factor**times for boundary, times in boundaries.items()}
        decay = optax.piecewise_constant_schedule(peak, factors)
    else:
        decay = optax.constant_schedule(peak)
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def make_optimizer(
    config: ConfigDict, schedule: optax.Schedule, stage_sizes: Sequence[int] = ()
) -> optax.GradientTransformation:
    """The chain from gradients to updates of the parameters; `layer_decay` counts layers by the network's stage sizes.

    "sgd" is momentum SGD, "adam" Kingma & Ba 2014, "adamw" Loshchilov & Hutter 2017, "lamb" You et al. 2019 and "lars"
    You et al. 2017, each as optax has it, with the constants of its default. `grad_clip` comes before everything else.

    Weight decay is an L2 penalty in "sgd", "adam" and "lars". In "adamw" and "lamb" it is decoupled, but still
    multiplied by the learning rate, and in "lamb" by the trust ratio. Norm scales and biases that are exempt from it
    get no trust ratio either, as in timm (Wightman et al. 2021). Unlike there, kernels keep theirs when there is no
    weight decay at all.
    """
    settings = config.optimizer

    def spare(part: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.masked(part, kernels_only) if settings.exempt_norm_and_bias else part

    clip = None if settings.grad_clip is None else optax.clip_by_global_norm(settings.grad_clip)
    by_part = None
    if (settings.backbone_scale, settings.layer_decay) != (1.0, 1.0):
        by_part = scale_by_part(settings.backbone_scale, settings.layer_decay, stage_sizes)
    parts = Parts(
        decay=spare(optax.add_decayed_weights(settings.weight_decay)) if settings.weight_decay else None,
        rate=optax.scale_by_learning_rate(schedule),
        momentum=optax.trace(decay=settings.momentum, nesterov=settings.nesterov),
        trust_ratio=lambda coefficient: spare(optax.scale_by_trust_ratio(trust_coefficient=coefficient)),
    )
    return optax.chain(*(part for part in (clip, *OPTIMIZERS[settings.name](parts), by_part) if part is not None))


def kernels_only(params: dict) -> dict:
    """True for kernels, False for norm scales and all biases, which are vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
