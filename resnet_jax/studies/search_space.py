"""The settings that a sweep varies, and their values."""

import ast
import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax.data import splits
from resnet_jax.errors import UserError, unknown_name

_RANGE = re.compile(r"(?P<low>[-+\w.]+?)\.\.(?P<high>[-+\w.]+?)(?P<log>:log)?")


@dataclasses.dataclass(frozen=True)
class Choices:
    """Several values of a setting."""

    values: tuple[object, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


@dataclasses.dataclass(frozen=True)
class Range:
    """All values of a setting between two bounds, which belong to it.

    Attributes:
      low, high: the bounds; int for a setting that holds integers, otherwise float.
      log: whether values are drawn uniformly on a logarithmic scale.
    """

    low: int | float
    high: int | float
    log: bool

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{' (logarithmic)' if self.log else ''}"


SearchSpace = Mapping[str, Choices | Range]  # by the name of the setting, such as "optimizer.learning_rate"


def parse(texts: Sequence[str]) -> SearchSpace:
    """Return the search space that the values of --set describe.

    Args:
      texts: each the name of a setting and its values: "seed=0,1,2", "optimizer.momentum=0.8..0.99", or
        "optimizer.learning_rate=0.01..1:log".

    Raises:
      UserError: if a setting is unknown or given twice, or if its values have another form or type.

    Example:
      >>> parse(["optimizer.name=sgd,lars", "optimizer.learning_rate=0.01..1:log"])["optimizer.learning_rate"]
      Range(low=0.01, high=1.0, log=True)
    """
    defaults = settings.default()
    space: dict[str, Choices | Range] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise UserError(f"--set={text} has the wrong form. Write it like --set=optimizer.learning_rate=0.1,0.3.")
        if name not in settings.leaves(defaults):
            raise unknown_name("setting", name, settings.leaves(defaults))
        if name in space:
            raise UserError(f"--set gives {name} twice. Put all of its values into one --set.")
        kind = settings.get_type(defaults, name)
        match = _RANGE.fullmatch(values)
        if match and kind in (int, float):
            space[name] = _parse_range(name, kind, match)
        else:
            choices = tuple(_parse_value(name, kind, value) for value in _split(values))
            if len(set(choices)) < len(choices):
                raise UserError(f"--set={text} gives a value twice. Remove the repetition.")
            space[name] = Choices(choices)
    return space


def _parse_range(name: str, kind: type, match: re.Match) -> Range:
    low, high = (_parse_value(name, kind, match[bound]) for bound in ("low", "high"))
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        raise UserError(f"the range of {name} ({match[0]}) needs two numbers. Correct its bounds.")
    if not low < high or (match["log"] and low <= 0):
        raise UserError(
            f"the range of {name} ({match[0]}) is empty or reaches zero on a logarithmic scale. Correct its bounds."
        )
    return Range(low, high, bool(match["log"]))


def _split(values: str) -> list[str]:
    """Split at the commas that are not within parentheses.

    Example:
      >>> _split("(2, 9),(2, 5)")
      ['(2, 9)', '(2, 5)']
    """
    return [value.strip() for value in re.split(r",(?![^()]*\))", values)]


def _parse_value(name: str, kind: type, text: str) -> object:
    """Return a value of a setting as its type; "None" unsets the setting."""
    if text == "None":
        return None
    try:
        if kind is str:
            return text
        if kind is float:
            return float(text)
        value = ast.literal_eval(text.capitalize() if kind is bool else text)
        if type(value) is not kind:
            raise ValueError
        return value
    except (ValueError, SyntaxError):
        raise UserError(f"--set gives {name} the value {text!r}, which is not of type {kind.__name__}.") from None


def grid(space: SearchSpace) -> Iterator[dict[str, object]]:
    """Yield all combinations of values. The last setting varies fastest.

    Example:
      >>> list(grid({"seed": Choices((0, 1)), "batch_size": Choices((64,))}))
      [{'seed': 0, 'batch_size': 64}, {'seed': 1, 'batch_size': 64}]
    """
    values = [choices.values for choices in space.values() if isinstance(choices, Choices)]
    for combination in itertools.product(*values):
        yield dict(zip(space, combination, strict=True))


def is_grid(space: SearchSpace) -> bool:
    """Return whether all settings have a list of values, rather than a range."""
    return all(isinstance(values, Choices) for values in space.values())


def run_name(changes: Mapping[str, object]) -> str:
    """Return the name of the run directory for these settings.

    The sections of the settings are left out if the names are clear without them.

    Example:
      >>> run_name({"optimizer.learning_rate": 0.1, "augment.mixup": 0.2})
      'learning_rate=0.1,mixup=0.2'
      >>> run_name({"optimizer.name": "sgd", "model.name": "resnet20"})
      'optimizer.name=sgd,model.name=resnet20'
    """
    short = [name.rpartition(".")[2] for name in changes]
    names = short if len(set(short)) == len(short) else list(changes)
    text = ",".join(f"{name}={value}" for name, value in zip(names, changes.values(), strict=True))
    return re.sub(r"[^\w.,=+-]+", "_", text)


def check(space: SearchSpace, config: ConfigDict) -> None:
    """Raise `UserError` if there is nothing to vary, or for settings that a sweep cannot vary."""
    if not space:
        raise UserError(
            "there is nothing to vary. Add --set=SETTING=VALUES, such as --set=optimizer.learning_rate=0.1,0.3."
        )
    for name in (
        "dataset.name",
        "dataset.train_split",
        "dataset.validation_split",
        "dataset.test_split",
        "checkpoint.best_metric",
    ):
        if name in space:
            raise UserError(f"a sweep cannot vary {name}, because its runs would not be comparable. Remove it.")
    if config.dataset.validation_split == splits.NO_SPLIT:
        raise UserError(
            "a sweep compares runs by their validation metrics, and dataset.validation_split is 'none'. Set it to a "
            "split, or to '' to hold out a tenth of the training split."
        )
