"""The settings of a recipe, and whether recorded runs still have them."""

import json
from collections.abc import Mapping, Sequence

from absl import flags
from ml_collections import ConfigDict

from benchmarks import run_program
from resnet_jax import config as settings
from resnet_jax.cli.flags import define_config
from resnet_jax.errors import UserError

# Settings that say how a run is executed and recorded, but not what it learns or which checkpoint is scored. The seed
# is one of them, because the runs of a result differ in it.
WITHOUT_EFFECT = (
    *("seed", "steps_per_call", "log_every_steps", "profile_steps"),
    *("dataset.data_dir", "dataset.num_workers", "dataset.max_unreadable", "dataset.feed"),
    *("checkpoint.every_epochs", "checkpoint.every_minutes", "checkpoint.keep"),
)


def recipe_path(name: str) -> str:
    """Return the path of a recipe: "cifar10:resnet20" means "configs/cifar10.py:resnet20"."""
    file, colon, variant = name.partition(":")
    return name if file.endswith(".py") else f"configs/{file}.py{colon}{variant}"


def load(recipe: str, overrides: Sequence[str]) -> ConfigDict:
    """Return the settings that `python main.py --config=RECIPE OVERRIDES` would train with.

    Args:
      recipe: a file and possibly a variant, such as "configs/cifar10.py:resnet20"; relative to the repository.
      overrides: flags such as "--config.num_epochs=10".

    Raises:
      UserError, absl.flags.Error, AttributeError: if there is no such recipe, or it does not take these flags.
    """
    argv = ["main.py", f"--config={run_program.ROOT / recipe}", *overrides]
    flag_values = flags.FlagValues()
    holder = define_config(flag_values=flag_values, argv=argv)
    flag_values(argv)
    return holder.value


def as_json(config: ConfigDict) -> dict[str, object]:
    """Return the settings by their dotted names, as they are after a round trip through JSON."""
    return json.loads(json.dumps(settings.leaves(config)))


def differences(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """Return the names of the settings that differ in what a run learns, sorted.

    A setting that one side lacks has its default there, since an older version recorded that side. A setting that a run
    determines at its start agrees with any value as long as it is unset.

    Args:
      first, second: results of `as_json`.
    """
    defaults = as_json(settings.default())
    first, second = {**defaults, **first}, {**defaults, **second}

    def agree(key: str) -> bool:
        values = first.get(key), second.get(key)
        is_unresolved = key in settings.RESOLVED_AT_START and any(value in settings.UNRESOLVED for value in values)
        return values[0] == values[1] or is_unresolved or key in WITHOUT_EFFECT

    return sorted(key for key in first.keys() | second.keys() if not agree(key))


def changes_since(line: Mapping) -> str:
    """Return what has changed in a recipe since `benchmarks.accuracy` recorded this line of results; "" if nothing."""
    try:
        now = load(line["recipe"], line["overrides"])
    except (UserError, flags.Error, AttributeError):
        return "the recipe does not take this command any more"
    return ", ".join(differences(line["settings"], as_json(now)))
