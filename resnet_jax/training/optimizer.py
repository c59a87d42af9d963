"""Optimizers and learning-rate schedules, by name.

We build the optimizers as chains of optax transformations, and do not use `optax.sgd`, `adam`, `adamw`, `lamb` and
`lars`, for two reasons:

- Their optimizer states have a different tree structure, which would make checkpoints of earlier versions unreadable:
  an L2 penalty or clipping would need an outer chain, and `adamw`, `lamb` and `lars` include weight decay even if it is
  zero.
- `optax.lamb` cannot exempt parameters from the trust ratio.
"""

import collections
import fnmatch
import logging
import math
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from resnet_jax.errors import UserError, unknown_name
from resnet_jax.training.freezing import check_patterns

OPTIMIZERS = ("sgd", "adam", "adamw", "lamb", "lars", "muon")
SCHEDULES = ("cosine", "linear", "step", "constant")
SHORT_RUN_WARMUP = 0.1  # fraction of a run that the warm-up takes if `schedule.warmup_epochs` covers the whole run

logger = logging.getLogger(__name__)


def check(config: ConfigDict) -> None:
    """Raise `UserError` if the optimizer or the schedule is unknown."""
    if config.optimizer.name not in OPTIMIZERS:
        raise unknown_name("optimizer", config.optimizer.name, OPTIMIZERS)
    if config.schedule.name not in SCHEDULES:
        raise unknown_name("schedule", config.schedule.name, SCHEDULES)
    parse_rate_factors(config.optimizer.rate_factors)


# --- Learning-rate schedules ------------------------------------------------------------------------------------------


def make_schedule(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Return the learning rate as a function of the step: a linear warm-up, then the decay named by `schedule.name`.

    The warm-up starts at zero, and the decay begins after it. "cosine" (Loshchilov & Hutter 2016, equation 5, without
    restarts) and "linear" reach zero one step after the last step of the run. "linear" with a warm-up is the triangular
    schedule. "step" multiplies the learning rate by `step_factor` at each of `step_epochs`, counted from the start of
    the run. If rounding would make the warm-up cover the whole run, it is shortened by one step.

    Args:
      config: the settings; `optimizer.learning_rate`, `num_epochs` and `schedule` are used.
      steps_per_epoch: the number of train steps per epoch.

    Example:
      >>> from resnet_jax.config import default
      >>> config = default()
      >>> config.num_epochs, config.schedule.name, config.schedule.warmup_epochs = 3, "linear", 1.0
      >>> schedule = make_schedule(config, steps_per_epoch=2)
      >>> [round(float(schedule(step)), 3) for step in range(6)]
      [0.0, 0.05, 0.1, 0.075, 0.05, 0.025]
    """
    peak = config.optimizer.learning_rate
    schedule = config.schedule
    total_steps = config.num_epochs * steps_per_epoch
    warmup_steps = min(round(_warmup_epochs(config) * steps_per_epoch), total_steps - 1)
    if schedule.name == "cosine":
        decay = optax.cosine_decay_schedule(peak, total_steps - warmup_steps)
    elif schedule.name == "linear":
        decay = optax.linear_schedule(peak, 0.0, total_steps - warmup_steps)
    elif schedule.name == "step":
        # If an epoch is listed twice, its factor applies twice. `decay` counts steps from the end of the warm-up.
        boundaries = collections.Counter(
            round(epoch * steps_per_epoch) - warmup_steps for epoch in schedule.step_epochs
        )
        factors = {boundary: schedule.step_factor**count for boundary, count in boundaries.items()}
        decay = optax.piecewise_constant_schedule(peak, factors)
    else:
        decay = optax.constant_schedule(peak)
    if warmup_steps == 0:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps])


def by_round(schedule: optax.Schedule, steps_per_visit: int, clients: int) -> optax.Schedule:
    """Return the learning rate as a function of the step numbers of a federated run; see `data.sampling.ClientSampler`.

    All clients have the same learning rate in their first step of a round, and in their second one, and so on.

    Args:
      schedule: the learning rate as a function of the step, for a run with `steps_per_visit` steps per epoch.
      steps_per_visit: how many step numbers each client has per round.
      clients: the number of clients.

    Example:
      >>> rate = by_round(lambda step: 0.1 * step, steps_per_visit=2, clients=3)
      >>> [round(float(rate(step)), 1) for step in range(8)]
      [0.0, 0.1, 0.0, 0.1, 0.0, 0.1, 0.2, 0.3]
    """

    def learning_rate(step):
        visit, step_in_visit = step // steps_per_visit, step % steps_per_visit
        return schedule(visit // clients * steps_per_visit + step_in_visit)

    return learning_rate


def _warmup_epochs(config: ConfigDict) -> float:
    """Return `schedule.warmup_epochs` if it is shorter than the run; otherwise log and return a fraction of the run.

    So --config.num_epochs=1 is enough to try a recipe. The setting itself stays as it is, for a resumed run with more
    epochs.
    """
    warmup_epochs, num_epochs = config.schedule.warmup_epochs, config.num_epochs
    if warmup_epochs < num_epochs:
        return warmup_epochs
    logger.info(
        f"schedule.warmup_epochs ({warmup_epochs:g}) is not less than num_epochs ({num_epochs}). The warm-up takes "
        f"{SHORT_RUN_WARMUP:.0%} of the run instead."
    )
    return SHORT_RUN_WARMUP * num_epochs


# --- Optimizers -------------------------------------------------------------------------------------------------------


def make_optimizer(
    config: ConfigDict, schedule: optax.Schedule, stage_sizes: Sequence[int] = ()
) -> optax.GradientTransformation:
    """Return the transformation from gradients to parameter updates.

    "sgd" is SGD with momentum (Sutskever et al. 2013), "adam" is Kingma & Ba 2014, "adamw" Loshchilov & Hutter 2017,
    "lamb" You et al. 2019 and "lars" You et al. 2017, each as in optax and with its default constants. "muon" (Jordan
    2024) replaces the momentum of each convolution kernel, as a matrix of inputs by outputs, by the nearest
    semi-orthogonal matrix, approximately. All other parameters, the head among them, are updated as by "sgd" without
    weight decay; `rate_factors` give them learning rates of their own. If `grad_clip` is set, gradients are clipped
    before everything else.

    Weight decay is an L2 penalty in "sgd", "adam" and "lars". In "adamw", "lamb" and "muon" it is decoupled, but still
    multiplied by the learning rate, and in "lamb" by the trust ratio. In "muon", `rate_factors` do not change it: it
    shrinks all parameters at the same rate, as in airbench94 (Jordan 2024). With `exempt_norm_and_bias`, vectors and
    scalars (norm scales, biases and residual scales) have neither weight decay nor a trust ratio, as in timm (Wightman
    et al. 2021). Unlike in timm, kernels keep their trust ratio if there is no weight decay.

    Args:
      config: the settings; only `config.optimizer` is used.
      schedule: the learning rate as a function of the step.
      stage_sizes: the number of blocks per stage of the model; used by `backbone_scale` and `layer_decay`.

    Example:
      >>> import jax.numpy as jnp
      >>> from resnet_jax.config import default
      >>> config = default()
      >>> config.optimizer.weight_decay, config.optimizer.nesterov = 0.0, False
      >>> sgd = make_optimizer(config, optax.constant_schedule(0.5))
      >>> params = {"head": {"bias": jnp.zeros(1)}}
      >>> gradients = {"head": {"bias": jnp.ones(1)}}
      >>> updates, state = sgd.update(gradients, sgd.init(params), params)
      >>> float(updates["head"]["bias"][0])
      -0.5
    """
    settings = config.optimizer

    def skip_exempt(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.masked(transformation, kernel_mask) if settings.exempt_norm_and_bias else transformation

    def scale_by_trust_ratio(coefficient: float) -> optax.GradientTransformation:
        # Scales the update of each array so that its norm is `coefficient` times the norm of the array. If either norm
        # is zero, the update does not change.
        return skip_exempt(optax.scale_by_trust_ratio(trust_coefficient=coefficient))

    weight_decay = [skip_exempt(optax.add_decayed_weights(settings.weight_decay))] if settings.weight_decay else []
    momentum = optax.trace(decay=settings.momentum, nesterov=settings.nesterov)
    learning_rate = optax.scale_by_learning_rate(schedule)

    # The position of the weight decay in the chain matters. At the front, it is an L2 penalty: the transformations that
    # follow treat it as part of the gradient. After Adam, it is decoupled: it does not enter the averages of the
    # gradient.
    if settings.name == "sgd":
        chain = [*weight_decay, momentum, learning_rate]
    elif settings.name == "adam":
        chain = [*weight_decay, optax.scale_by_adam(), learning_rate]
    elif settings.name == "adamw":
        chain = [optax.scale_by_adam(), *weight_decay, learning_rate]
    elif settings.name == "lamb":
        chain = [optax.scale_by_adam(eps=1e-6), *weight_decay, scale_by_trust_ratio(1.0), learning_rate]
    elif settings.name == "lars":
        chain = [*weight_decay, scale_by_trust_ratio(0.001), learning_rate, momentum]
    elif settings.name == "muon":
        muon = optax.contrib.muon(
            schedule,
            beta=settings.momentum,
            nesterov=settings.nesterov,
            muon_weight_dimension_numbers=lambda kernels: jax.tree.map(lambda _: INPUTS_BY_OUTPUTS, kernels),
        )
        sgd = optax.chain(momentum, learning_rate)
        chain = [optax.partition({True: muon, False: sgd}, is_convolution)]
    else:
        raise unknown_name("optimizer", settings.name, OPTIMIZERS)

    if settings.grad_clip is not None:
        chain = [optax.clip_by_global_norm(settings.grad_clip), *chain]
    if settings.backbone_scale != 1.0 or settings.layer_decay != 1.0:
        chain = [*chain, scale_by_layer(settings.backbone_scale, settings.layer_decay, stage_sizes)]
    if settings.rate_factors:
        chain = [*chain, scale_by_name(parse_rate_factors(settings.rate_factors))]
    if settings.name == "muon" and settings.weight_decay:
        decay = optax.add_decayed_weights(lambda step: -settings.weight_decay * schedule(step))
        chain = [*chain, skip_exempt(decay)]
    if settings.fixed_kernel_norm:
        chain = [*chain, fix_kernel_norm()]
    return optax.chain(*chain)


def kernel_mask(params: dict) -> dict:
    """Return a tree of booleans: True for kernels, False for vectors and scalars (norm and residual scales, biases).

    Example:
      >>> import numpy as np
      >>> kernel_mask({"kernel": np.zeros((3, 2)), "bias": np.zeros(2)})
      {'bias': False, 'kernel': True}
    """
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


# How Muon views the kernel of a convolution: as a matrix whose rows are the axes height, width and inputs. By default,
# optax would apply Muon to nothing but matrices, such as the kernel of the head.
INPUTS_BY_OUTPUTS = optax.contrib.MuonDimensionNumbers((0, 1, 2), (3,))


def is_convolution(params: dict) -> dict:
    """Return a tree of booleans: True for the kernels of convolutions, False for all other parameters."""
    return jax.tree.map(lambda leaf: leaf.ndim == 4, params)


def fix_kernel_norm() -> optax.GradientTransformation:
    """Return a transformation that rescales each convolution kernel to norm sqrt(outputs) before its update is added.

    If a BatchNorm or GroupNorm follows the convolution, the norm of its kernel has no effect on the output, but it
    determines how far an update turns the kernel. With this transformation, the learning rate alone determines that (as
    in airbench94 with Muon, Jordan 2024).
    """

    def update(updates: dict, params: dict) -> dict:
        return jax.tree.map(
            lambda update, param: update + (_normalized(param) - param) if param.ndim == 4 else update, updates, params
        )

    return optax.stateless(update)


def _normalized(kernel: jax.Array) -> jax.Array:
    """Return a kernel scaled to norm sqrt(outputs)."""
    return kernel * (jnp.sqrt(kernel.shape[-1]) / (jnp.linalg.norm(kernel.ravel()) + 1e-7))


# --- Learning rates by name -------------------------------------------------------------------------------------------


def parse_rate_factors(rate_factors: Sequence[str]) -> list[tuple[str, float]]:
    """Return the (pattern, factor) pairs of `optimizer.rate_factors`.

    Raises:
      UserError: if an entry has another form.

    Example:
      >>> parse_rate_factors(("head*=0.1",))
      [('head*', 0.1)]
    """
    pairs = []
    for entry in rate_factors:
        try:
            pattern, text = entry.split("=")
            factor = float(text)
            if not 0 <= factor < math.inf:
                raise ValueError
            pairs.append((pattern, factor))
        except (AttributeError, ValueError):
            raise UserError(
                f"optimizer.rate_factors has an entry of the wrong form ({entry!r}). Write a name pattern and a "
                "factor of at least 0, such as 'head*=0.1'."
            ) from None
    return pairs


def check_rate_factors(rate_factors: Sequence[str], params: dict) -> None:
    """Raise `UserError` if a pattern of `optimizer.rate_factors` matches none of the parameters."""
    check_patterns("optimizer.rate_factors", [pattern for pattern, _ in parse_rate_factors(rate_factors)], params)


def scale_by_name(rate_factors: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Return a transformation that multiplies each update by the factor of the last pattern that its name matches.

    Updates whose names match no pattern stay as they are.

    Example:
      >>> halve_head = scale_by_name([("head*", 0.5)])
      >>> halve_head.update({"head": {"bias": 8.0}, "stem_conv": {"kernel": 8.0}}, halve_head.init({}))[0]
      {'head': {'bias': 4.0}, 'stem_conv': {'kernel': 8.0}}
    """

    def factor(name: str) -> float:
        return next((factor for pattern, factor in reversed(rate_factors) if fnmatch.fnmatchcase(name, pattern)), 1.0)

    def update(updates: dict, params: dict | None = None) -> dict:
        del params
        flat = flatten_dict(updates)
        return unflatten_dict({path: update * factor("/".join(path)) for path, update in flat.items()})

    return optax.stateless(update)


# --- Layer-wise learning rates (skip this unless you fine-tune) -------------------------------------------------------

BLOCK_NAME = re.compile(r"stage(\d+)_block(\d+)")


def scale_by_layer(
    backbone_scale: float, layer_decay: float, stage_sizes: Sequence[int]
) -> optax.GradientTransformation:
    """Return a transformation that multiplies the updates of each layer by its factor; see `learning_rate_factors`."""

    def update(updates: dict, params: dict | None = None) -> dict:
        del params
        factors = learning_rate_factors(updates, backbone_scale, layer_decay, stage_sizes)
        return jax.tree.map(lambda update, factor: update * factor, updates, factors)

    return optax.stateless(update)


def learning_rate_factors(params: dict, backbone_scale: float, layer_decay: float, stage_sizes: Sequence[int]) -> dict:
    """Return the factor of the learning rate for each parameter.

    The factor is 1 for the head, and for the projector and the predictor in pre-training. For all other layers it is
    `backbone_scale * layer_decay**distance`, as in Clark et al. 2020, "ELECTRA". The distance is counted from the head,
    and each block is one layer: the last block has distance 1, the block before it 2, and the stem has the largest. A
    norm before the head belongs to the last block.

    Args:
      params: parameters by module name. Frozen parameters may be missing; their layers still count for the distance.
      backbone_scale: factor of all layers except the head.
      layer_decay: factor per layer of distance.
      stage_sizes: the number of blocks per stage of the model.

    Example:
      >>> params = {"stem_conv": {"kernel": 1}, "stage1_block1": {"kernel": 1}, "head": {"kernel": 1}}
      >>> learning_rate_factors(params, backbone_scale=1.0, layer_decay=0.5, stage_sizes=(1,))
      {'stem_conv': {'kernel': 0.25}, 'stage1_block1': {'kernel': 0.5}, 'head': {'kernel': 1.0}}
    """
    num_blocks = sum(stage_sizes)

    def factor(module: str) -> float:
        if module in ("head", "projector", "predictor"):
            return 1.0
        if module == "final_norm":
            return backbone_scale * layer_decay
        block = BLOCK_NAME.fullmatch(module)
        position = 0  # the stem, below the first block
        if block:
            stage, block_of_stage = int(block[1]), int(block[2])
            position = sum(stage_sizes[: stage - 1]) + block_of_stage
        return backbone_scale * layer_decay ** (num_blocks - position + 1)

    return unflatten_dict({path: factor(path[0]) for path in flatten_dict(params)})
