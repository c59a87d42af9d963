import math

import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from resnet_jax import config as settings
from resnet_jax import config_check
from resnet_jax.errors import UserError
from resnet_jax.training import experiment


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("batch_size", 0, r"batch_size \(0\) must be positive"),
        ("optimizer.weight_decay", -1.0, r"weight_decay \(-1.0\) must be at least 0"),
        ("loss.label_smoothing", 1.0, r"label_smoothing \(1.0\) must be in"),
        ("model.dtype", "float16", "unknown model.dtype 'float16'. Did you mean bfloat16 or float32"),
        ("schedule.name", "step", "needs schedule.step_epochs"),
        ("schedule", {"name": "step", "step_epochs": ("a",)}, "needs schedule.step_epochs"),
        ("schedule", {"name": "step", "step_epochs": (-1, 3)}, r"positive numbers \(\(-1, 3\) is set\)"),
        ("schedule.step_factor", -1.0, r"step_factor \(-1.0\) must be positive"),
        ("batch_size", None, "batch_size must not be None. Its default is 128"),
        ("dataset.train_split", "", "dataset.train_split must not be empty"),
        ("dataset.image_size", 0, r"dataset.image_size \(0\) must be positive or unset"),
        ("dataset.num_workers", -1, r"dataset.num_workers \(-1\) must be at least 0 or unset"),
        ("seed", -1, r"seed \(-1\) must be in \[0, 2\*\*63\)"),
        ("seed", 2**63, r"seed \(9223372036854775808\) must be in \[0, 2\*\*63\)"),
        ("optimizer.accumulate_steps", 0, r"accumulate_steps \(0\) must be positive"),
        ("batch_norm.group_size", -8, r"group_size \(-8\) must be at least 0"),
        (
            "batch_norm.group_size",
            48,
            r"\(48\) does not divide batch_size \(128\). Try --config.batch_size=144 or another",
        ),
        ("dataset", {"mean": (), "std": ()}, "must be one number per channel"),
        ("dataset.mean", (0.5,), "dataset.mean and dataset.std go together. Set both"),
        ("dataset", {"mean": (0.5,), "std": (0.0,)}, "with a positive std"),
        ("dataset", {"mean": (0.5,), "std": (0.2, 0.2)}, "must be one number per channel"),
        ("dataset", {"mean": ("a",), "std": ("b",)}, "must be one number per channel"),
        ("profile_steps", "10", r"\(\'10\'\) must look like 100:110"),
        ("profile_steps", "²:5", r"\(\'²:5\'\) must look like 100:110"),
        ("profile_steps", "20:10", r"\(\'20:10\'\) must look like 100:110"),
        ("init_key", "state_dict", "init_key has no effect without init_from"),
        ("init_skip", ("head*",), "init_skip has no effect without init_from"),
        ("steps_per_call", 0, r"steps_per_call \(0\) must be positive or unset"),
    ],
)
def test_impossible_value_is_refused_by_name(key, value, sentence):
    config = settings.default()
    section, _, name = key.rpartition(".")
    (config[section] if section else config).update({name: value})
    with pytest.raises(UserError, match=sentence):
        config_check.check(config)


TYPES = {key: settings.get_type(settings.default(), key) for key in settings.leaves(settings.default())}
FLOATS = [key for key, kind in TYPES.items() if kind is float]
NUMBERS = [key for key, kind in TYPES.items() if kind in (int, float)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", FLOATS)
def test_number_that_is_not_finite_is_refused_by_name(key, value):
    config = settings.default()
    config.update_from_flattened_dict({key: value})
    if value == math.inf and key in config_check.MAY_BE_INFINITE:
        config_check.check(config)
    else:
        with pytest.raises(UserError, match=rf"^{key} \({value}\) must be"):
            config_check.check(config)


# The only number that may have any sign: the initial value of a learned factor.
@pytest.mark.parametrize("key", [key for key in NUMBERS if key != "model.residual_scale"])
def test_negative_number_is_refused_by_name(key, mesh):
    config = settings.default()
    config.loss.name = "binary_cross_entropy"  # needed for loss.target_threshold
    config.update_from_flattened_dict({key: TYPES[key](-1)})
    with pytest.raises(UserError, match=rf"^{key} .*must"):
        experiment.check(config, mesh)


def test_value_of_another_type_is_refused_by_name():
    config = settings.default()
    config.batch_size = None  # After this, ConfigDict accepts a value of any type.
    config.batch_size = "64"
    with pytest.raises(UserError, match="batch_size \\('64'\\) must be of type int"):
        config_check.check(config)


def test_settings_that_a_recipe_adds_are_refused():
    config = settings.default()
    with config.unlocked():
        config.note, config.model.width, config.wandb = "x", 3, ConfigDict()
    with pytest.raises(UserError, match=r"there are unknown settings \(model.width, note, wandb\). Remove them"):
        config_check.check(config)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"batch_size": 64}, "the settings are of type dict. Start from resnet_jax.config.default()"),
        (None, "the settings are of type NoneType"),
        (FrozenConfigDict(settings.default()), "the settings are of type FrozenConfigDict"),
        (
            ConfigDict({"learning_rate": 0.1, "batch_size": 128}),
            r"settings are missing \(augment.alternating_flip, .*, ...\)",
        ),
    ],
)
def test_settings_of_another_program_are_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        config_check.check(config)


def test_batch_norm_groups_must_divide_a_microbatch():
    config = settings.default()
    config.batch_size, config.optimizer.accumulate_steps, config.batch_norm.group_size = 96, 4, 16
    sentence = (
        r"group_size \(16\) does not divide the size of a microbatch, "
        r"batch_size \(96\) / optimizer.accumulate_steps \(4\). Try --config.batch_size=128"
    )
    with pytest.raises(UserError, match=sentence):
        config_check.check(config)
    config.batch_size = 128
    config_check.check(config)


def test_default_settings_are_valid():
    config_check.check(settings.default())
