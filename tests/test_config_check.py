import pytest

from resnet_jax import config as settings
from resnet_jax import config_check
from resnet_jax.errors import UserError


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("batch_size", 0, r"batch_size \(0\) must be positive"),
        ("optimizer.weight_decay", -1.0, r"weight_decay \(-1.0\) must not be negative"),
        ("loss.label_smoothing", 1.0, r"label_smoothing \(1.0\) must be in"),
        ("model.dtype", "float16", "unknown model.dtype 'float16'. Did you mean bfloat16 or float32"),
        ("schedule.name", "step", "needs schedule.step_epochs"),
        ("schedule", {"name": "step", "step_epochs": ("a",)}, "needs schedule.step_epochs"),
        ("dataset.train_split", "", "dataset.train_split must not be empty"),
        ("dataset.image_size", 0, r"dataset.image_size \(0\) must be positive or unset"),
        ("dataset.num_workers", -1, r"dataset.num_workers \(-1\) must not be negative"),
        ("seed", -1, r"seed \(-1\) must not be negative"),
        ("optimizer.accumulate_steps", 0, r"accumulate_steps \(0\) must be positive"),
        ("batch_norm.group_size", -8, r"group_size \(-8\) must not be negative"),
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
        ("profile_steps", "20:10", r"\(\'20:10\'\) must look like 100:110"),
        ("steps_per_call", 0, r"steps_per_call \(0\) must be positive or unset"),
    ],
)
def test_impossible_value_is_refused_by_name(key, value, sentence):
    config = settings.default()
    section, _, name = key.rpartition(".")
    (config[section] if section else config).update({name: value})
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
