import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError


def test_misspelt_setting_in_a_recipe_is_an_error():
    with pytest.raises(AttributeError, match="learning_rate"):
        settings.default().optimizer.learning_rat = 0.1


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
        ("dataset.test_split", "", "dataset.test_split must not be empty"),
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
        settings.check(config)


def test_default_passes():
    settings.check(settings.default())


def test_json_gives_the_same_settings_back():
    config = settings.default()
    config.dataset.mean, config.dataset.std = (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)
    config.steps_per_call = 4
    restored = settings.from_json(settings.to_json(config))
    assert restored.to_dict() == config.to_dict()
    assert isinstance(restored.dataset.mean, tuple)


def test_json_of_an_unknown_setting_is_refused():
    with pytest.raises(UserError, match=r"unknown setting 'optimizer.momentun': did you mean optimizer.momentum"):
        settings.from_json('{"optimizer": {"momentun": 0.9}}')


class TestResume:
    def test_takes_what_was_resolved(self):
        stored = settings.default()
        stored.dataset.mean, stored.dataset.std, stored.steps_per_call = (0.5,), (0.2,), 8
        resumed = settings.resume(stored, settings.default())
        assert (resumed.dataset.mean, resumed.dataset.std, resumed.steps_per_call) == ((0.5,), (0.2,), 8)

    def test_lets_logging_change_and_epochs_grow(self):
        wanted = settings.default()
        wanted.log_every_steps, wanted.checkpoint.keep, wanted.num_epochs = 7, 9, 20
        resumed = settings.resume(settings.default(), wanted)
        assert (resumed.log_every_steps, resumed.checkpoint.keep, resumed.num_epochs) == (7, 9, 20)

    @pytest.mark.parametrize(("key", "value"), [("seed", 1), ("num_epochs", 5), ("batch_size", 64)])
    def test_refuses_another_run_by_name(self, key, value):
        wanted = settings.default()
        wanted[key] = value
        with pytest.raises(UserError, match=f"another run, which differs in {key}"):
            settings.resume(settings.default(), wanted)
