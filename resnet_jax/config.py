"""The settings of a run: their names, defaults and structure.

`default()` is the whole tree. A recipe in `configs/` starts from it and overrides what it needs:

    def get_config():
        config = default()
        config.dataset.name = "cifar10"
        return config

Names in tables (models, data sets, optimizers, ...) are checked beside each table, everything else by `check`.
"""

import json

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from resnet_jax.errors import UserError, unknown_name

# What a resumed run may change without becoming another run. `num_epochs` may only grow.
CHANGEABLE_ON_RESUME = (
    "dataset.data_dir",
    "num_epochs",
    "log_every_steps",
    "evaluate_every_epochs",
    "profile_steps",
    "checkpoint.every_epochs",
    "checkpoint.every_minutes",
    "checkpoint.keep",
)
POSITIVE = (
    "batch_size",
    "num_epochs",
    "log_every_steps",
    "evaluate_every_epochs",
    "checkpoint.every_epochs",
    "checkpoint.every_minutes",
    "checkpoint.keep",
    "optimizer.learning_rate",
    "batch_norm.epsilon",
)
# Filled in once from the data and the device, stored with the run, and reused when it resumes.
RESOLVED_AT_START = ("dataset.mean", "dataset.std", "steps_per_call")


def default() -> ConfigDict:
    """Every setting with its default. The tree is locked: a misspelt name is an error, not a new setting."""
    config = ConfigDict()
    config.seed = 0  # initial weights, order of the examples and augmentation are functions of (seed, step)

    config.dataset = ConfigDict()
    config.dataset.name = "digits"  # "digits" (scikit-learn), or a TFDS name: "cifar10", "mnist", ...
    config.dataset.data_dir = placeholder(str)  # of TFDS; unset: $TFDS_DATA_DIR, else ~/tensorflow_datasets
    config.dataset.train_split = "train"  # TFDS syntax: "train", "train[:80%]", "train[:45000]", "train+test"
    config.dataset.validation_split = ""  # "": a tenth of every class of train is held out; "none": train on all of it
    config.dataset.test_split = "test"  # read once, at the end; "none": no test result
    config.dataset.mean = placeholder(tuple)  # per channel, of pixels in [0, 1]; unset: measured on the training split
    config.dataset.std = placeholder(tuple)

    config.augment = ConfigDict()
    config.augment.crop_padding = 0  # pixels of black border before a random crop back to the picture's size
    config.augment.horizontal_flip = False  # mirror half of the pictures

    config.model = ConfigDict()
    config.model.name = "resnet20"  # a name in models/variants.py
    config.model.stem = placeholder(str)  # "imagenet" (7x7/2, max-pool) or "cifar" (3x3/1); unset: the variant's own
    config.model.shortcut = placeholder(str)  # "projection" (option B) or "pad" (option A); unset: the variant's own
    config.model.dtype = "float32"  # of the computation, or "bfloat16"; parameters and logits are always float32
    config.model.zero_init_residual = False  # True: blocks start as the identity (Goyal et al. 2017)

    config.batch_size = 128  # examples a step, over all devices
    config.num_epochs = 10
    config.steps_per_call = placeholder(int)  # steps in one compiled call; unset: 1 on CPU, else up to 32

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or "adam"
    config.optimizer.learning_rate = 0.1  # the peak of the schedule
    config.optimizer.momentum = 0.9  # SGD only
    config.optimizer.nesterov = True  # SGD only
    config.optimizer.weight_decay = 1e-4  # L2 penalty, added to the gradient
    config.optimizer.exempt_norm_and_bias = False  # no weight decay on norm scales and biases
    config.optimizer.grad_clip = placeholder(float)  # largest global norm of the gradient; unset: none

    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # or "linear" (to zero), "step", "constant"
    config.schedule.warmup_epochs = 0.0  # linear from zero to the peak
    config.schedule.step_epochs = ()  # "step" only: the epochs at which the rate is multiplied by step_factor
    config.schedule.step_factor = 0.1

    config.loss = ConfigDict()
    config.loss.name = "softmax_cross_entropy"  # on integer labels; "softmax_cross_entropy_one_hot" on one-hot ones
    config.loss.label_smoothing = 0.0  # the share of the target spread evenly over all classes

    config.batch_norm = ConfigDict()
    config.batch_norm.momentum = 0.9  # of the running statistics: new = momentum * old + (1 - momentum) * batch
    config.batch_norm.epsilon = 1e-5

    config.log_every_steps = 50
    config.evaluate_every_epochs = 1
    config.profile_steps = placeholder(str)  # "100:110" writes a profiler trace of these steps

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1  # beside these, every new best and the last step are saved
    config.checkpoint.every_minutes = 10.0
    config.checkpoint.keep = 2  # the newest that stay; the best one stays besides
    config.checkpoint.best_metric = "top1"  # or "loss", on the validation split

    return config.lock()


def check(config: ConfigDict) -> None:
    """Raises `UserError` for values that cannot work, before anything is compiled or downloaded."""
    for key in POSITIVE:
        if not get(config, key) > 0:
            raise UserError(f"{key} must be positive, not {get(config, key)}")
    for key in ("steps_per_call", "optimizer.grad_clip"):
        if get(config, key) is not None and not get(config, key) > 0:
            raise UserError(f"{key} must be positive or unset, not {get(config, key)}")
    for key in ("augment.crop_padding", "optimizer.weight_decay", "schedule.warmup_epochs"):
        if get(config, key) < 0:
            raise UserError(f"{key} must not be negative, but it is {get(config, key)}")
    for key in ("optimizer.momentum", "loss.label_smoothing", "batch_norm.momentum"):
        if not 0 <= get(config, key) < 1:
            raise UserError(f"{key} must lie in [0, 1), but it is {get(config, key)}")
    _check_choice(config, "model.dtype", ("float32", "bfloat16"))
    _check_choice(config, "checkpoint.best_metric", ("top1", "loss"))
    if config.schedule.warmup_epochs >= config.num_epochs:
        raise UserError(
            f"schedule.warmup_epochs ({config.schedule.warmup_epochs:g}) must be less than num_epochs "
            f"({config.num_epochs}): shorten the warm-up or train longer"
        )
    if config.schedule.name == "step" and not _are_numbers(config.schedule.step_epochs):
        raise UserError("schedule.name=step needs schedule.step_epochs, such as '(30, 60, 80)'")
    for key in ("dataset.train_split", "dataset.test_split"):
        if not get(config, key):
            raise UserError(f"{key} must not be empty" + (" ('none' goes without)" if "test" in key else ""))
    if (config.dataset.mean is None) != (config.dataset.std is None):
        raise UserError("set both dataset.mean and dataset.std, or neither to have them measured")
    if config.dataset.mean is not None:
        _check_normalisation(config.dataset.mean, config.dataset.std)
    if config.profile_steps is not None:
        profile_range(config)


def profile_range(config: ConfigDict) -> tuple[int, int] | None:
    """`profile_steps` as (first, last), or None where it is unset."""
    if config.profile_steps is None:
        return None
    first, _, last = config.profile_steps.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise UserError(f"profile_steps must look like 100:110, not {config.profile_steps!r}")
    return int(first), int(last)


def get(config: ConfigDict, key: str):
    """The value at a dotted `key`, such as "optimizer.learning_rate"."""
    for part in key.split("."):
        config = config[part]
    return config


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Every setting by its dotted name, sorted."""
    found = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            found.update(leaves(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`; a setting that an older run did not know keeps its default."""
    config = default()

    def fill(tree: ConfigDict, values: dict, prefix: str) -> None:
        for name, value in values.items():
            if name not in tree:
                raise unknown_name("setting", f"{prefix}{name}", leaves(config))
            if isinstance(value, dict):
                fill(tree[name], value, f"{prefix}{name}.")
            else:
                tree[name] = tuple(value) if isinstance(value, list) else value

    fill(config, json.loads(text), "")
    return config


def resume(stored: ConfigDict, wanted: ConfigDict) -> ConfigDict:
    """The settings with which a run stored as `stored` goes on when `wanted` is asked for.

    Raises:
      UserError: if they differ in what makes it another run, naming the settings.
    """
    resumed = wanted.copy_and_resolve_references()
    before, after = leaves(stored), leaves(wanted)
    for key in RESOLVED_AT_START:
        if after[key] is None:
            section, _, name = key.rpartition(".")
            (resumed[section] if section else resumed)[name] = before[key]
            after[key] = before[key]
    changed = [key for key in before if before[key] != after[key] and key not in CHANGEABLE_ON_RESUME]
    if wanted.num_epochs < stored.num_epochs:
        changed.append("num_epochs")
    if changed:
        listed = ", ".join(f"{key} (there {before[key]!r}, here {after[key]!r})" for key in changed)
        raise UserError(f"this workdir belongs to another run, which differs in {listed}: choose another --workdir")
    return resumed


def _are_numbers(values: tuple) -> bool:
    return len(values) > 0 and all(isinstance(value, int | float) for value in values)


def _check_normalisation(mean: tuple, std: tuple) -> None:
    if not (_are_numbers(mean) and _are_numbers(std)) or len(mean) != len(std) or min(std) <= 0:
        raise UserError(
            f"dataset.mean {mean} and dataset.std {std} must be one number a channel, of pixels in [0, 1], such as "
            "'(0.5,)' and '(0.25,)', and std positive"
        )


def _check_choice(config: ConfigDict, key: str, choices: tuple[str, ...]) -> None:
    if get(config, key) not in choices:
        raise unknown_name(key, get(config, key), choices)
