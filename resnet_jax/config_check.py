"""Validation of the settings, before anything is downloaded or compiled.

Names that come from a table, such as those of models, are checked next to that table.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from resnet_jax.config import default, get, get_type, leaves
from resnet_jax.errors import UserError, unknown_name


class Range(NamedTuple):
    """Numeric settings that must be in the same range, unless they are unset."""

    description: str  # completes "must be ..."
    contains: Callable[[float], bool]
    settings: tuple[str, ...]


# Most of those of `augment` are checked in `augment.pipeline`.
RANGES = (
    Range(
        "positive",
        lambda value: value > 0,
        (
            "batch_size",
            "num_epochs",
            "steps_per_call",
            "log_every_steps",
            "evaluate_every_epochs",
            "augment.repeats",
            "dataset.image_size",
            "dataset.eval_resize",
            "dataset.eval_crop",
            "model.squeeze_excitation",
            "optimizer.learning_rate",
            "optimizer.grad_clip",
            "optimizer.accumulate_steps",
            "optimizer.backbone_scale",
            "optimizer.layer_decay",
            "schedule.step_factor",
            "loss.temperature",
            "batch_norm.epsilon",
            "checkpoint.every_epochs",
            "checkpoint.every_minutes",
            "checkpoint.keep",
            "early_stopping.patience",
            "pretrain.temperature",
            "federated.clients",
            "federated.alpha",
            "federated.shards",
            "federated.local_epochs",
            "federated.local_steps",
            "federated.server_rate",
            "federated.server_epsilon",
            "federated.clip_norm",
        ),
    ),
    Range(
        "at least 0",
        lambda value: value >= 0,
        (
            "dataset.num_workers",
            "dataset.max_unreadable",
            "augment.crop_padding",
            "optimizer.weight_decay",
            "schedule.warmup_epochs",
            "batch_norm.group_size",
            "loss.focal_gamma",
            "early_stopping.min_delta",
            "ema_recalibrate_steps",
            "federated.proximal",
            "federated.noise_multiplier",
        ),
    ),
    Range(
        "in [0, 1)",
        lambda value: 0 <= value < 1,
        (
            "model.stochastic_depth",
            "model.dropout",
            "optimizer.momentum",
            "loss.label_smoothing",
            "batch_norm.momentum",
            "ema_decay",
            "federated.dropout",
            "federated.server_momentum",
        ),
    ),
    Range("from 8 to 16", lambda value: 8 <= value <= 16, ("dataset.bit_depth",)),
    Range("in [0, 2**63)", lambda value: 0 <= value < 2**63, ("seed",)),
    Range(
        "in [0, 1]",
        lambda value: 0 <= value <= 1,
        (
            "loss.distill_weight",
            "pretrain.second_gaussian_blur",
            "pretrain.second_solarize",
            "federated.straggling",
        ),
    ),
    Range("in (0, 1]", lambda value: 0 < value <= 1, ("federated.share", "federated.top_k_share")),
    Range("in (0, 1)", lambda value: 0 < value < 1, ("federated.delta",)),
)
MAY_BE_INFINITE = ("checkpoint.every_minutes", "optimizer.grad_clip")  # infinite: save only per epoch; never clip


def check(config: ConfigDict) -> None:
    """Check the names, types and values of the settings and their combinations.

    Raises:
      UserError: if a value or a combination is impossible.

    Example:
      >>> check(default())
    """
    check_names(config)
    _check_types(config)
    _check_ranges(config)
    for key in ("freeze", "init_skip"):
        patterns = get(config, key)
        if not all(isinstance(pattern, str) for pattern in patterns):
            raise UserError(f"{key} {patterns} must be a tuple of name patterns, such as \"('stem*', 'stage*')\".")
    for key in ("init_key", "init_skip"):
        if get(config, key) and not config.init_from:
            raise UserError(f"{key} has no effect without init_from. Set both or neither.")
    if config.loss.distill_model and not config.loss.distill_from:
        raise UserError("loss.distill_model has no effect without loss.distill_from. Set both or neither.")
    _check_choice(config, "model.dtype", ("float32", "bfloat16"))
    for key in ("checkpoint.best_metric", "early_stopping.metric"):
        _check_choice(config, key, ("top1", "loss", "map", "knn"))
    _check_groups(config.batch_size, config.optimizer.accumulate_steps, config.batch_norm.group_size)
    epochs = config.schedule.step_epochs
    if config.schedule.name == "step" and not (_are_numbers(epochs) and min(epochs) > 0):
        raise UserError(
            f"schedule.name=step needs schedule.step_epochs, positive numbers ({epochs} is set). "
            "Set it, for example to '(30, 60, 80)'."
        )
    if not config.dataset.train_split:
        raise UserError("dataset.train_split must not be empty. Its default is 'train'.")
    if (config.dataset.mean is None) != (config.dataset.std is None):
        raise UserError("dataset.mean and dataset.std go together. Set both, or leave both unset.")
    if config.dataset.mean is not None:
        check_normalization(config.dataset.mean, config.dataset.std)
    if config.profile_steps is not None:
        profile_range(config)


def check_names(config: object) -> None:
    """Check that `config` has the settings of `default()`, and no others.

    Raises:
      UserError: if a setting is missing or unknown.
    """
    if type(config) is not ConfigDict:
        raise UserError(f"the settings are of type {type(config).__name__}. Start from resnet_jax.config.default().")
    known, given = leaves(default()), leaves(config)
    missing = [key for key in known if key not in given]
    if missing:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"settings are missing ({names}). Start from resnet_jax.config.default().")
    unknown = [key for key in given if key not in known]
    if unknown:
        raise UserError(f"there are unknown settings ({', '.join(unknown)}). Remove them, because nothing uses them.")


def _check_types(config: ConfigDict) -> None:
    """Check that every setting has a value of its type, and that numbers are finite."""
    defaults = default()
    for key, default_value in leaves(defaults).items():
        value, kind = get(config, key), get_type(defaults, key)
        if value is None:
            if default_value is not None:
                raise UserError(f"{key} must not be None. Its default is {default_value!r}.")
        elif not isinstance(value, int | float if kind is float else kind):
            raise UserError(f"{key} ({value!r}) must be of type {kind.__name__}.")
        elif isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and key not in MAY_BE_INFINITE)):
            raise UserError(f"{key} ({value}) must be a finite number.")


def _check_ranges(config: ConfigDict) -> None:
    """Check that every number is in its range."""
    for allowed in RANGES:
        for key in allowed.settings:
            value = get(config, key)
            if value is not None and not allowed.contains(value):
                or_unset = " or unset" if get(default(), key) is None else ""
                raise UserError(f"{key} ({value}) must be {allowed.description}{or_unset}.")


def profile_range(config: ConfigDict) -> tuple[int, int] | None:
    """Return `profile_steps` as (start, stop), or None if it is unset. `stop` itself is excluded.

    Raises:
      UserError: if it has another form.
    """
    if config.profile_steps is None:
        return None
    start, _, stop = config.profile_steps.partition(":")
    if not (start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise UserError(f"profile_steps ({config.profile_steps!r}) must look like 100:110.")
    return int(start), int(stop)


def check_normalization(mean: tuple, std: tuple) -> None:
    """Check the mean and std of the pixels.

    Raises:
      UserError: unless both have one finite number per channel and every std is positive.
    """
    if not (_are_numbers(mean) and _are_numbers(std)) or len(mean) != len(std) or min(std) <= 0:
        raise UserError(
            f"dataset.mean {mean} and dataset.std {std} must be one number per channel, of pixels in [0, 1], with a "
            "positive std. An example for one channel is '(0.5,)' and '(0.25,)'."
        )


def _are_numbers(values: tuple) -> bool:
    """Return whether there is at least one value and all values are finite numbers."""
    return len(values) > 0 and all(type(value) in (int, float) and math.isfinite(value) for value in values)


def _check_groups(batch_size: int, accumulate_steps: int, group_size: int) -> None:
    """Check that every microbatch consists of whole BatchNorm groups."""
    if not group_size or batch_size % (accumulate_steps * group_size) == 0:
        return
    divided = f"batch_size ({batch_size})"
    if accumulate_steps > 1:
        divided = f"the size of a microbatch, {divided} / optimizer.accumulate_steps ({accumulate_steps})"
    nearest = max(1, round(batch_size / (accumulate_steps * group_size))) * accumulate_steps * group_size
    raise UserError(
        f"batch_norm.group_size ({group_size}) does not divide {divided}. "
        f"Try --config.batch_size={nearest} or another group_size."
    )


def _check_choice(config: ConfigDict, key: str, choices: tuple[str, ...]) -> None:
    """Check that the setting `key` has one of the values in `choices`."""
    if get(config, key) not in choices:
        raise unknown_name(key, get(config, key), choices)
