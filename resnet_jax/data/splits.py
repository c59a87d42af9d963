"""Splits: which examples are for training, for validation and for testing.

A split is written as in TFDS: `train`, `train[:45000]`, `train[10%:90%]`, `train[-500:]`, `train+test`.
A base split is one that the dataset itself provides, such as `train`. A split selects examples of one or more base
splits.

Validation examples may also be held out of the training split: a tenth of each class, or a fold, such as `fold:1/5`.
"""

import itertools
import re
from collections.abc import Iterable, Mapping

import numpy as np
from ml_collections import ConfigDict

from resnet_jax.errors import UserError, unknown_name

VALIDATION_NAMES = ("validation", "val", "valid")  # usual names of a base split for validation
VALIDATION_FRACTION = 0.1  # of each class of the training split, if the dataset has no validation split
NO_SPLIT = "none"  # value of the settings `validation_split` and `test_split`

_FOLD = re.compile(r"fold:(?P<number>\d+)/(?P<count>\d+)")
_RANGE = re.compile(r"(?P<name>[\w-]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def select(split: str, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the examples that a split selects, as their indices in each base split.

    Args:
      split: the split.
      sizes: number of examples of every base split.

    Raises:
      UserError: if the split is malformed, names an unknown base split, selects no example, or selects one twice.

    Example:
      >>> select("train[:2]+test[50%:]", {"train": 10, "test": 4})
      {'train': array([0, 1]), 'test': array([2, 3])}
    """
    selected: dict[str, np.ndarray] = {}
    for term in split.split("+"):
        match = _RANGE.fullmatch(term.strip())
        if not match:
            raise UserError(f"malformed split {split!r}. Write it like train, train[:90%] or train[1000:2000].")
        name = match["name"]
        if name not in sizes:
            raise unknown_name("split", name, sizes)
        start = _bound(match["start"], sizes[name], 0)
        stop = _bound(match["stop"], sizes[name], sizes[name])
        indices = np.concatenate([selected.get(name, np.arange(0)), np.arange(start, stop)])
        if len(np.unique(indices)) < len(indices):
            raise UserError(f"the split {split!r} selects some examples twice. Choose ranges that do not overlap.")
        selected[name] = indices
    if not any(len(indices) for indices in selected.values()):
        raise UserError(f"the split {split!r} selects no examples. Choose another range.")
    return selected


def resolve(dataset: ConfigDict, base_splits: Iterable[str]) -> None:
    """Fill in the validation and test splits that the settings leave open ("").

    The test split becomes the base split "test", or "none" if there is no such base split. The validation split becomes
    an otherwise unused base split with one of `VALIDATION_NAMES`. If there is none, it stays "", which means that some
    of the training split will be held out for validation.
    """
    if dataset.test_split == "":
        dataset.test_split = "test" if "test" in base_splits else NO_SPLIT
    if dataset.validation_split == "":
        used = names(dataset.train_split) + names(dataset.test_split)
        free = [name for name in VALIDATION_NAMES if name in base_splits and name not in used]
        dataset.validation_split = free[0] if free else ""


def names(split: str) -> list[str]:
    """Return the base splits that a split takes examples from.

    Example:
      >>> names("train[:90%] + extra")
      ['train', 'extra']
    """
    return [match["name"] for match in map(_RANGE.match, split.replace(" ", "").split("+")) if match]


def configured(dataset: ConfigDict) -> dict[str, str]:
    """Return the splits of a run by purpose: "training", and "validation" and "test" if the settings name them."""
    splits = {"training": dataset.train_split, "validation": dataset.validation_split, "test": dataset.test_split}
    if is_held_out(dataset):
        del splits["validation"]
    return {purpose: split for purpose, split in splits.items() if split not in ("", NO_SPLIT)}


def overlaps(splits: Iterable[str], sizes: Mapping[str, int]) -> list[str]:
    """Return a message for each pair of splits that share examples, because a score on training examples would mislead.

    Raises:
      UserError: as `select` does.
    """
    selected = [(split, select(split, sizes)) for split in splits]
    messages = []
    for (first, first_indices), (second, second_indices) in itertools.combinations(selected, 2):
        common = first_indices.keys() & second_indices.keys()
        shared = sum(len(np.intersect1d(first_indices[name], second_indices[name])) for name in common)
        if shared:
            messages.append(
                f"the splits {first!r} and {second!r} share {shared:,} examples. Choose ranges that do not overlap."
            )
    return messages


def hold_out(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Divide examples in two, always in the same way.

    The held-out examples are a `fraction` of each class, rounded to whole examples, and are chosen at random with a
    fixed seed. They do not depend on the seed of a run, so that runs can be compared.

    Args:
      labels: int [n], the labels of the examples.
      fraction: fraction of each class to hold out.

    Returns:
      Positions of the examples that are kept and of those that are held out, both sorted.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    held_out_by_class = [np.empty(0, np.int64)]
    for label in np.unique(labels):
        members = order[labels[order] == label]
        held_out_by_class.append(members[: round(fraction * len(members))])
    held_out = np.sort(np.concatenate(held_out_by_class))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def hold_out_fold(labels: np.ndarray, number: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide examples into `count` folds, always in the same way, and hold out one of them.

    The folds are stratified: their sizes differ by at most one example, and so do the sizes of each class in them.

    Args:
      labels: int [n], the labels of the examples.
      number: which fold to hold out, from 1 to `count`.
      count: the number of folds.

    Returns:
      Positions of the examples that are kept and of those that are held out, both sorted.

    Example:
      >>> kept, held_out = hold_out_fold(np.array([0, 0, 0, 1, 1, 1]), 1, count=3)
      >>> np.array([0, 0, 0, 1, 1, 1])[held_out]
      array([0, 1])
    """
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    held_out = np.sort(by_class[number - 1 :: count])
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def is_held_out(dataset: ConfigDict) -> bool:
    """Return whether the validation examples are held out of the training split."""
    return dataset.validation_split == "" or _parse_fold(dataset.validation_split) is not None


def check(dataset: ConfigDict) -> None:
    """Raise `UserError` if `dataset.validation_split` is a fold that does not exist."""
    _parse_fold(dataset.validation_split)


def _parse_fold(split: str) -> tuple[int, int] | None:
    """Return the number of a fold and how many folds there are, or None if the split is not a fold.

    Raises:
      UserError: if there is no such fold.
    """
    if not split.startswith("fold:"):
        return None
    match = _FOLD.fullmatch(split)
    if not match:
        raise UserError(f"malformed fold {split!r}. Write it like fold:1/5.")
    number, count = int(match["number"]), int(match["count"])
    if count < 2 or not 1 <= number <= count:
        raise UserError(f"there is no fold {split!r}. Folds are numbered from 1, and there are at least two.")
    return number, count


def held_out_size(dataset: ConfigDict, size: int) -> int:
    """Return about how many of `size` training examples are held out for validation."""
    if not is_held_out(dataset):
        return 0
    fold = _parse_fold(dataset.validation_split)
    return round(size / fold[1] if fold else VALIDATION_FRACTION * size)


def describe_held_out(dataset: ConfigDict) -> str:
    """Return which part of the training split is held out for validation, such as "10% of train"."""
    fold = _parse_fold(dataset.validation_split)
    part = f"fold {fold[0]} of {fold[1]}" if fold else f"{VALIDATION_FRACTION:.0%}"
    return f"{part} of {dataset.train_split}"


def hold_out_validation(dataset: ConfigDict, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hold out examples of the training split for validation: `VALIDATION_FRACTION` of each class, or a fold.

    Args:
      dataset: the settings, for which `is_held_out` is true.
      labels: int [n], the labels of the training split.

    Returns:
      What `hold_out` and `hold_out_fold` return.

    Raises:
      UserError: if there are so few examples that none would be held out or none kept.
    """
    fold = _parse_fold(dataset.validation_split)
    if fold:
        number, count = fold
        if count > len(labels):
            raise UserError(f"{len(labels):,} training examples are too few for {count:,} folds. Choose fewer folds.")
        return hold_out_fold(labels, number, count)
    if dataset.multi_label and len(labels) >= 1 / VALIDATION_FRACTION:
        return hold_out_fold(labels, 1, round(1 / VALIDATION_FRACTION))  # Most combinations of labels are rare.
    kept, held_out = hold_out(labels, VALIDATION_FRACTION)
    if not len(held_out):
        raise UserError(
            f"{len(labels):,} training examples are too few to hold out a tenth of each class for validation. Set "
            "dataset.validation_split to a split, or to 'none' to train without validation."
        )
    return kept, held_out


def _bound(text: str | None, size: int, default: int) -> int:
    """Return a bound of a range, such as "90%" or "-500", as an index; return `default` if it is absent."""
    if text is None:
        return default
    bound = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
    if abs(bound) > size:
        raise UserError(f"a bound of a split ({text}) exceeds its {size:,} examples. Choose a smaller bound.")
    return bound + size if bound < 0 else bound
