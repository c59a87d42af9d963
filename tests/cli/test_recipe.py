import sys

import pytest

from resnet_jax.cli import recipe
from resnet_jax.errors import UserError
from tests.conftest import ROOT

RECIPE = """\
from resnet_jax.config import default

def get_config(model="resnet20"):
    config = default()
    {}
    return config
"""


def write(directory, text, name="mine.py"):
    path = directory / name
    path.write_text(text)
    return str(path)


def test_load_returns_locked_settings():
    config = recipe.load(f"{ROOT}/configs/mnist.py:adam")
    assert (config.dataset.name, config.optimizer.name, config.is_locked) == ("mnist", "adam", True)


def test_recipe_can_import_another_recipe_of_its_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    directory = tmp_path / "experiments"
    directory.mkdir()
    write(directory, RECIPE.format("config.seed = 7"), name="base.py")
    derived = write(directory, "from experiments import base\ndef get_config(): return base.get_config()", "derived.py")
    assert recipe.load(derived).seed == 7


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            RECIPE.format("config.bath_size = 3"),
            r'fails \(line 5, AttributeError: Key "bath_size" .* locked\)',
        ),
        (
            RECIPE.format("config.batch_size = '3'"),
            r"fails \(line 5, TypeError: Could not override .*batch_size",
        ),
        (RECIPE.format("open('/nowhere')"), r"fails \(line 5, FileNotFoundError: .*/nowhere"),
        (RECIPE.format("config.unlock().note = 3"), r"there are unknown settings \(note\). Remove them"),
        ("import missing_package", r"fails \(line 1, ModuleNotFoundError: No module named 'missing_package'\)"),
        ("def get_config(:", r"fails \(SyntaxError: .*line 1"),
        ("def get_config(): return {'batch_size': 3}", "the settings are of type dict. Start from"),
        ("def get_config(): pass", "the settings are of type NoneType. Start from"),
        (
            "import ml_collections\ndef get_config(): return ml_collections.ConfigDict({'learning_rate': 0.1})",
            r"settings are missing \(augment.alternating_flip, .*\). Start from resnet_jax.config.default\(\)",
        ),
        ("batch_size = 3", "is not a recipe .no function get_config."),
        ("def get_config(model): pass", r"needs an argument. Use --config=.*/mine.py:ARGUMENT"),
    ],
)
def test_file_that_is_not_a_recipe_of_ours_is_refused(tmp_path, text, sentence):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=rf"{path} .*{sentence}"):
        recipe.load(path)


def test_argument_that_a_recipe_does_not_take_is_refused():
    path = f"{ROOT}/configs/digits.py"
    with pytest.raises(UserError, match=rf"{path} takes no argument \('resnet18'\). Use --config={path}, and change"):
        recipe.load(f"{path}:resnet18")


def test_stored_settings_and_run_directories_are_refused_as_recipes(tmp_path):
    for path in (write(tmp_path, "{}", name="config.json"), str(tmp_path)):
        with pytest.raises(UserError, match=rf"{path} is not a recipe.* give its directory as --workdir"):
            recipe.load(path)


@pytest.mark.parametrize("path", ["", "configs/digit.py", "configs"])
def test_missing_file_is_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"there is no config file '{path}'. The recipes are in configs/"):
        recipe.load(path)
