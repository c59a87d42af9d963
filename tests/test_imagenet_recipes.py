"""The tables of docs/imagenet.md list every setting of each ImageNet recipe, with its value."""

import ast
import pathlib
import re
import runpy

import pytest

from resnet_jax import config as settings
from resnet_jax.runtime import parallel
from resnet_jax.training import experiment as experiments

ROOT = pathlib.Path(__file__).parents[1]
get_config = runpy.run_path(str(ROOT / "configs/imagenet.py"))["get_config"]
RECIPES = ("goyal", "ffcv", "strikes_back_a3", "strikes_back_a2", "strikes_back_a1", "torchvision_v2")
COMMON = {  # what the text above the tables says of all recipes
    "dataset.name": "imagenet2012",
    "dataset.train_split": "train[:99%]",
    "dataset.validation_split": "train[99%:]",
    "dataset.test_split": "validation",
    "dataset.mean": (0.485, 0.456, 0.406),
    "dataset.std": (0.229, 0.224, 0.225),
    "augment.random_resized_crop": (0.08, 1.0),
    "augment.horizontal_flip": True,
    "model.name": "resnet50",
    "model.dtype": "bfloat16",
    "optimizer.exempt_norm_and_bias": True,
}


def documented(recipe: str) -> dict:
    """Return the values by setting in the table under the heading that names the recipe."""
    page = (ROOT / "docs/imagenet.md").read_text(encoding="utf-8")
    (heading, section), *_ = [
        (heading, section)
        for heading, section in re.findall(r"^## (.*)\n([^#]*)", page, re.MULTILINE)
        if f"`{recipe}`" in heading
    ]
    column = re.findall(r"`(\w+)`", heading).index(recipe)
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", section, re.MULTILINE)
    cells = {setting: row.split(" | ")[column] for setting, row in rows}
    return {setting: None if cell == "unset" else ast.literal_eval(cell) for setting, cell in cells.items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_documented_settings_are_those_of_the_recipe(recipe):
    config, expected = get_config(recipe), {**COMMON, **documented(recipe)}
    assert {setting: settings.get(config, setting) for setting in expected} == expected
    defaults = settings.leaves(settings.default())
    changed = {setting for setting, value in settings.leaves(config).items() if value != defaults[setting]}
    assert changed <= set(expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_valid(recipe):
    config = get_config(recipe)
    config.batch_size = 64  # The test has eight devices.
    experiments.check(config, parallel.make_mesh())
