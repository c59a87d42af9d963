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


# How values follow from the numbers in the column "in the source", where they are not among them.
DERIVED = {
    ("goyal", "batch_size"): lambda least, most: 1024 if least <= 1024 <= most else None,
    ("goyal", "optimizer.learning_rate"): lambda rate, images: rate * 1024 / images,
    ("ffcv", "dataset.eval_resize"): lambda crop, resize: round(256 * resize / crop),
    ("ffcv", "batch_size"): lambda per_device, devices: per_device * devices,
    ("strikes_back_a3", "augment.repeats"): lambda *_: 1,
    ("strikes_back_a3", "dataset.eval_resize"): lambda ratio: round(224 / ratio),
    ("strikes_back_a2", "dataset.eval_resize"): lambda ratio: round(224 / ratio),
    ("strikes_back_a1", "dataset.eval_resize"): lambda ratio: round(224 / ratio),
    ("torchvision_v2", "batch_size"): lambda per_device, devices: per_device * devices,
    ("torchvision_v2", "ema_decay"): lambda decay, steps, *_: round(
        (1 - (1 - decay) * 1024 * steps / 600) ** (1 / steps), 6
    ),
}


def table(recipe: str) -> tuple[int, dict[str, list[str]]]:
    """Return the column of a recipe in the table under the heading that names it, and the cells of each setting."""
    page = (ROOT / "docs/imagenet.md").read_text(encoding="utf-8")
    (heading, section), *_ = [
        (heading, section)
        for heading, section in re.findall(r"^## (.*)\n([^#]*)", page, re.MULTILINE)
        if f"`{recipe}`" in heading
    ]
    column = re.findall(r"`(\w+)`", heading).index(recipe)
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", section, re.MULTILINE)
    return column, {setting: row.split(" | ") for setting, row in rows}


def documented(recipe: str) -> dict:
    """Return the documented values by setting."""
    column, cells = table(recipe)
    return {
        setting: None if row[column] == "unset" else ast.literal_eval(row[column]) for setting, row in cells.items()
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_documented_settings_are_those_of_the_recipe(recipe):
    config, expected = get_config(recipe), {**COMMON, **documented(recipe)}
    assert {setting: settings.get(config, setting) for setting in expected} == expected
    defaults = settings.leaves(settings.default())
    changed = {setting for setting, value in settings.leaves(config).items() if value != defaults[setting]}
    assert changed <= set(expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_numbers_follow_from_those_of_the_source(recipe):
    """A number in a recipe is the one that its source states, or is computed from what the source states."""
    column, cells = table(recipe)
    compared = 0
    for setting, value in documented(recipe).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            stated = [float(number) for number in re.findall(r"(?<![\w.])\d[\d.]*(?:e-?\d+)?\b", cells[setting][-1])]
            if len(cells[setting]) == len(stated) + 1:  # one number per recipe of the table
                stated = [stated[column]]
            derive = DERIVED.get((recipe, setting))
            assert value in ([derive(*stated)] if derive else stated), setting
            compared += 1
    assert compared >= 8


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_valid(recipe):
    config = get_config(recipe)
    config.batch_size = 64  # The test has eight devices.
    experiments.check(config, parallel.make_mesh())
