"""Validation of the settings, before anything is downloaded or compiled.

Names that come from a table, such as those of models, are checked next to that table.
"""

import math

from ml_collections import ConfigDict

from resnet_jax.config import default, get, leaves
from resnet_jax.errors import UserError, unknown_name

# Settings by the range that their values must be in.
POSITIVE_OR_UNSET = (
    "dataset.image_size",
    "dataset.eval_resize",
    "dataset.eval_crop",
    "model.squeeze_excitation",
    "steps_per_call",
    "optimizer.grad_clip",
)
FRACTIONS = (  # in [0, 1), or unset
    "model.stochastic_depth",
    "model.dropout",
    "optimizer.momentum",
    "loss.label_smoothing",
    "batch_norm.momentum",
)
NOT_NEGATIVE = (
    "seed",
    "dataset.max_unreadable",
    "augment.crop_padding",
    "optimizer.weight_decay",
    "schedule.warmup_epochs",
    "batch_norm.group_size",
)
POSITIVE = (
    "batch_size",
    "optimizer.accumulate_steps",
    "num_epochs",
    "log_every_steps",
    "evaluate_every_epochs",
    "checkpoint.every_epochs",
    "checkpoint.every_minutes",
    "checkpoint.keep",
    "optimizer.learning_rate",
    "optimizer.backbone_scale",
    "optimizer.layer_decay",
    "loss.temperature",
    "batch_norm.epsilon",
)


def check(config: ConfigDict) -> None:
    """Check the values of the settings and their combinations.

    Raises:
      UserError: if a value or a combination is impossible.

    Example:
      >>> check(default())
    """
    for key, value in leaves(default()).items():
        if value is not None and get(config, key) is None:
            raise UserError(f"{key} must not be None. Its default is {value!r}.")
    for key in POSITIVE:
        if not get(config, key) > 0:
            raise UserError(f"{key} ({get(config, key)}) must be positive.")
    for key in POSITIVE_OR_UNSET:
        if get(config, key) is not None and not get(config, key) > 0:
            raise UserError(f"{key} ({get(config, key)}) must be positive or unset.")
    for key in (*NOT_NEGATIVE, "dataset.num_workers"):
        if (get(config, key) or 0) < 0:
            raise UserError(f"{key} ({get(config, key)}) must not be negative.")
    for key in FRACTIONS:
        if not 0 <= (get(config, key) or 0) < 1:
            raise UserError(f"{key} ({get(config, key)}) must be in [0, 1).")
    if not 0 <= config.loss.distill_weight <= 1:
        raise UserError(f"loss.distill_weight ({config.loss.distill_weight}) must be in [0, 1].")
    for key in ("freeze", "init_skip"):
        patterns = get(config, key)
        if not all(isinstance(pattern, str) for pattern in patterns):
            raise UserError(f"{key} {patterns} must be a tuple of name patterns, such as \"('stem*', 'stage*')\".")
    if config.init_skip and not config.init_from:
        raise UserError("init_skip has no effect without init_from. Set both or neither.")
    if config.loss.distill_model and not config.loss.distill_from:
        raise UserError("loss.distill_model has no effect without loss.distill_from. Set both or neither.")
    if config.ema_decay is not None and not 0 <= config.ema_decay < 1:
        raise UserError(f"ema_decay ({config.ema_decay}) must be in [0, 1) or unset.")
    _check_choice(config, "model.dtype", ("float32", "bfloat16"))
    _check_choice(config, "checkpoint.best_metric", ("top1", "loss"))
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


def profile_range(config: ConfigDict) -> tuple[int, int] | None:
    """Return `profile_steps` as (start, stop), or None if it is unset. `stop` itself is excluded.

    Raises:
      UserError: if it has another form.
    """
    if config.profile_steps is None:
        return None
    start, _, stop = config.profile_steps.partition(":")
    if not (start.isdigit() and stop.isdigit() and int(start) < int(stop)):
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
