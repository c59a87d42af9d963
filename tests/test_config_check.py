import pytest

from resnet_jax import config as settings
from resnet_jax import config_check
from resnet_jax.errors import UserError


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("batch_size", 0, "batch_size must be positive"),
        ("optimizer.weight_decay", -1.0, "weight_decay must not be negative"),
        ("loss.label_smoothing", 1.0, "label_smoothing must lie in"),
        ("model.dtype", "float16", "unknown model.dtype 'float16': did you mean bfloat16 or float32"),
        ("schedule.warmup_epochs", 10.0, "warmup_epochs .10. must be less than num_epochs .10."),
        ("schedule.name", "step", "needs schedule.step_epochs"),
        ("schedule", {"name": "step", "step_epochs": ("a",)}, "needs schedule.step_epochs"),
        ("dataset.train_split", "", "dataset.train_split must not be empty"),
        ("dataset.image_size", 0, "dataset.image_size must be positive or unset"),
        ("dataset.num_workers", -1, "dataset.num_workers must not be negative"),
        ("seed", -1, "seed must not be negative"),
        ("optimizer.accumulate_steps", 0, "accumulate_steps must be positive"),
        ("batch_norm.group_size", -8, "group_size must not be negative"),
        ("batch_norm.group_size", 48, "48 does not divide batch_size 128: try --config.batch_size=144, or another"),
        ("dataset", {"mean": (), "std": ()}, "must be one number a channel"),
        ("dataset.mean", (0.5,), "set both dataset.mean and dataset.std"),
        ("dataset", {"mean": (0.5,), "std": (0.0,)}, "and std positive"),
        ("dataset", {"mean": (0.5,), "std": (0.2, 0.2)}, "must be one number a channel"),
        ("dataset", {"mean": ("a",), "std": ("b",)}, "must be one number a channel"),
        ("profile_steps", "10", "must look like 100:110"),
        ("profile_steps", "20:10", "must look like 100:110"),
        ("steps_per_call", 0, "steps_per_call must be positive or unset"),
    ],
)
def test_impossible_values_are_refused_by_name(key, value, sentence):
    config = settings.default()
    section, _, name = key.rpartition(".")
    (config[section] if section else config).update({name: value})
    with pytest.raises(UserError, match=sentence):
        config_check.check(config)


def test_groups_must_fit_into_the_parts_of_a_batch():
    config = settings.default()
    config.batch_size, config.optimizer.accumulate_steps, config.batch_norm.group_size = 96, 4, 16
    sentence = (
        "group_size 16 does not divide batch_size 96 over optimizer.accumulate_steps 4: try --config.batch_size=128"
    )
    with pytest.raises(UserError, match=sentence):
        config_check.check(config)
    config.batch_size = 128
    config_check.check(config)


def test_default_passes():
    config_check.check(settings.default())
