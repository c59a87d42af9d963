"""Recipes: Python files with a function `get_config`, which returns the settings of a run.

`load` replaces the loader of ml_collections. That one accepts any file and any object as settings, so that mistakes
surface later and less clearly.
"""

import inspect
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from resnet_jax import config_check
from resnet_jax.errors import UserError, first_line


def load(recipe: str) -> ConfigDict:
    """Return the settings of a recipe, locked.

    Args:
      recipe: `FILE.py` or `FILE.py:ARGUMENT`. The argument is passed to the recipe's `get_config`.

    Raises:
      UserError: if the file is not a recipe, if it does not take the argument, or if its code raises an exception.

    Example:
      >>> load("configs/mnist.py:adam").optimizer.name
      'adam'
    """
    path, *arguments = recipe.split(":", 1)
    _check_path(path)
    # Recipes import others from their directory: configs/cifar100.py, for example, needs `from configs import cifar10`.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(path))))
    try:
        get_config = runpy.run_path(path).get("get_config")
        if not callable(get_config):
            raise UserError(f"{path} is not a recipe (no function get_config). The recipes are in configs/.")
        _check_arguments(path, get_config, arguments)
        config = get_config(*arguments)
    except UserError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        place = f"line {lines[-1]}, " if lines else ""
        # For an unknown setting, ml_collections quotes the message and lists all settings in it.
        reason = re.sub(r"^'(Key .+)\. Other fields present:.*", r"\1", first_line(error))
        raise UserError(f"the recipe {path} fails ({place}{type(error).__name__}: {reason}). Correct it.") from error
    try:
        config_check.check_names(config)
    except UserError as error:
        raise UserError(f"the recipe {path} does not fit this program: {error}") from None
    return config.lock()


def _check_path(path: str) -> None:
    if not os.path.exists(path):
        raise UserError(f"there is no config file {path!r}. The recipes are in configs/.")
    if os.path.isdir(path) or not path.endswith(".py"):
        raise UserError(
            f"{path} is not a recipe, which is a Python file such as configs/digits.py. "
            "To use a run, give its directory as --workdir."
        )


def _check_arguments(path: str, get_config: Callable, arguments: Sequence[str]) -> None:
    """Check that `get_config` can be called with the arguments, of which there are at most one."""
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError:
        if arguments:
            remedy = f"Use --config={path}, and change settings by flags such as --config.batch_size=64."
            raise UserError(f"the recipe {path} takes no argument ({arguments[0]!r}). {remedy}") from None
        raise UserError(f"the recipe {path} needs an argument. Use --config={path}:ARGUMENT.") from None
