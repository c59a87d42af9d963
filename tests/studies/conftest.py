"""Recipes and a program for studies."""

import pathlib
import sys

import pytest

from resnet_jax.cli import recipe as recipes
from resnet_jax.studies.study import Recipe

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def recipe():
    """Three epochs on digits."""
    path = str(HERE.parents[1] / "configs" / "digits.py")
    return Recipe(path, {}, recipes.load(path)).changed({"num_epochs": 3})


@pytest.fixture
def fake_program(monkeypatch):
    """Let studies start a program that writes run directories without training."""
    monkeypatch.setattr(sys, "argv", [str(HERE / "fake_program.py")])
    monkeypatch.setenv("PYTHONPATH", str(HERE.parents[1]))
