"""Optimizers and learning-rate schedules, by name."""

import collections

import jax
import optax
from ml_collections import ConfigDict

from resnet_jax.errors import unknown_name

OPTIMIZERS = ("sgd", "adam")
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


def make_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The chain from gradients to updates of the parameters.

    "sgd" is momentum SGD, with Nesterov's variant as a setting (Sutskever et al. 2013); "adam" is Kingma & Ba 2014 with
    their defaults. Weight decay is an L2 penalty: it is added to the gradient, before the optimizer sees it.
    """
    settings = config.optimizer
    chain = []
    if settings.grad_clip is not None:
        chain.append(optax.clip_by_global_norm(settings.grad_clip))
    if settings.weight_decay:
        mask = kernels_only if settings.exempt_norm_and_bias else None
        chain.append(optax.add_decayed_weights(settings.weight_decay, mask))
    if settings.name == "sgd":
        chain.append(optax.trace(decay=settings.momentum, nesterov=settings.nesterov))
    else:
        chain.append(optax.scale_by_adam())
    chain.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*chain)


def kernels_only(params: dict) -> dict:
    """True for kernels, False for norm scales and all biases, which are vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
