"""Which examples are for training, for validation and for the test.

A split is written as TFDS writes it: `train`, `train[:45000]`, `train[10%:90%]`, `train[-500:]`, `train+test`.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
from ml_collections import ConfigDict

from resnet_jax.errors import UserError, unknown_name

OWN_VALIDATION = ("validation", "val", "valid")  # as data sets call theirs

_PART = re.compile(r"(?P<name>[\w-]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def select(split: str, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The examples that `split` names: indices for each base split, where `sizes` has the lengths of all of them.

    Raises:
      UserError: for a malformed split, an unknown base split, no example at all, or an example named twice.
    """
    selected: dict[str, np.ndarray] = {}
    for part in split.split("+"):
        match = _PART.fullmatch(part.strip())
        if not match:
            raise UserError(f"cannot read the split {split!r}: write it like train, train[:90%] or train[1000:2000]")
        name = match["name"]
        if name not in sizes:
            raise unknown_name("split", name, sizes)
        start = _bound(match["start"], sizes[name], 0)
        stop = _bound(match["stop"], sizes[name], sizes[name])
        chosen = np.concatenate([selected.get(name, np.arange(0)), np.arange(start, stop)])
        if len(np.unique(chosen)) < len(chosen):
            raise UserError(f"the split {split!r} names some examples twice: choose ranges that do not overlap")
        selected[name] = chosen
    if not any(len(indices) for indices in selected.values()):
        raise UserError(f"the split {split!r} holds no examples")
    return selected


def resolve(dataset: ConfigDict, base_splits: Iterable[str]) -> None:
    """Fills in the splits that `dataset` leaves open with those that the data set itself has for the purpose.

    Without one, validation stays "": a part of the training split is to be held out. The test split becomes "none".
    """
    if dataset.test_split == "":
        dataset.test_split = "test" if "test" in base_splits else "none"
    if dataset.validation_split == "":
        taken = names(dataset.train_split) + names(dataset.test_split)
        free = [name for name in OWN_VALIDATION if name in base_splits and name not in taken]
        dataset.validation_split = free[0] if free else ""


def names(split: str) -> list[str]:
    """The base splits that a split takes from."""
    return [match["name"] for match in map(_PART.match, split.replace(" ", "").split("+")) if match]


def check_disjoint(first: str, second: str, sizes: Mapping[str, int]) -> None:
    """Raises `UserError` if two splits share examples: a score on what was trained on would mislead."""
    one, other = select(first, sizes), select(second, sizes)
    shared = sum(len(np.intersect1d(one[name], other[name])) for name in one.keys() & other.keys())
    if shared:
        raise UserError(
            f"the splits {first!r} and {second!r} share {shared:,} examples: choose ranges that do not overlap"
        )


def hold_out(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Parts examples in two, the same way each time: (kept, held out), both sorted.

    The held-out part takes `fraction` of every class, rounded, chosen at random with a fixed seed: the same pictures
    whatever the seed of a run, so that runs can be compared.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    held_out = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        held_out.append(members[: round(fraction * len(members))])
    held_out = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def _bound(text: str | None, size: int, default: int) -> int:
    if text is None:
        return default
    bound = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
    if abs(bound) > size:
        raise UserError(f"the bound {text} of a split goes beyond its {size:,} examples")
    return bound + size if bound < 0 else bound
