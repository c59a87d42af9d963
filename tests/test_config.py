import inspect
import runpy

import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from tests.conftest import ROOT


def test_misspelled_setting_in_a_recipe_is_an_error():
    with pytest.raises(AttributeError, match="learning_rate"):
        settings.default().optimizer.learning_rat = 0.1


def test_json_round_trip_restores_the_settings():
    config = settings.default()
    config.dataset.mean, config.dataset.std = (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)
    config.steps_per_call = 4
    restored = settings.from_json(settings.to_json(config))
    assert restored.to_dict() == config.to_dict()
    assert isinstance(restored.dataset.mean, tuple)


def test_json_with_an_unknown_setting_is_refused():
    with pytest.raises(UserError, match=r"config.json has an unknown setting \(optimizer.momentun\). Remove it, or"):
        settings.from_json('{"optimizer": {"momentun": 0.9}}')


class TestResume:
    def test_uses_stored_values_of_resolved_settings(self):
        stored = settings.default()
        stored.dataset.mean, stored.dataset.std, stored.steps_per_call = (0.5,), (0.2,), 8
        resumed = settings.resume(stored, settings.default())
        assert (resumed.dataset.mean, resumed.dataset.std, resumed.steps_per_call) == ((0.5,), (0.2,), 8)

    def test_allows_other_logging_and_more_epochs(self):
        requested = settings.default()
        requested.log_every_steps, requested.checkpoint.keep, requested.num_epochs = 7, 9, 20
        resumed = settings.resume(settings.default(), requested)
        assert (resumed.log_every_steps, resumed.checkpoint.keep, resumed.num_epochs) == (7, 9, 20)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("seed", 1), ("num_epochs", 5), ("batch_size", 64), ("freeze", ("stem*",)), ("ema_decay", 0.9)],
    )
    def test_refuses_a_setting_that_changes_the_run_and_names_it(self, key, value):
        requested = settings.default()
        requested[key] = value
        with pytest.raises(UserError, match=f"different settings: {key}"):
            settings.resume(settings.default(), requested)


def test_settings_page_is_current():
    script = runpy.run_path(str(ROOT / "docs" / "settings.py"))
    assert script["PAGE"].read_text() == script["page"](), "out of date: run python docs/settings.py"


def test_settings_page_describes_every_setting():
    script = runpy.run_path(str(ROOT / "docs" / "settings.py"))
    described = script["descriptions"](inspect.getsource(settings.default))
    assert sorted(described) == sorted(settings.leaves(settings.default()))
