import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError


def test_misspelt_setting_in_a_recipe_is_an_error():
    with pytest.raises(AttributeError, match="learning_rate"):
        settings.default().optimizer.learning_rat = 0.1


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

    @pytest.mark.parametrize(
        ("key", "value"),
        [("seed", 1), ("num_epochs", 5), ("batch_size", 64), ("freeze", ("stem*",)), ("ema_decay", 0.9)],
    )
    def test_refuses_another_run_by_name(self, key, value):
        wanted = settings.default()
        wanted[key] = value
        with pytest.raises(UserError, match=f"another run, which differs in {key}"):
            settings.resume(settings.default(), wanted)
