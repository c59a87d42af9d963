"""The figures of a data set, made from what was seen of its pictures."""

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from resnet_jax.data.inspect.scan import Looked, pixels

Size = tuple[int, int]  # (height, width)


@dataclasses.dataclass(frozen=True)
class SplitFigures:
    """Of one base split.

    Attributes:
      examples: how many there are.
      unreadable: how many of them cannot be read; all below is of the others.
      classes: how many there are of each class.
      unlabelled: how many have a label that is no class, such as -1.
      smallest, median, largest: pictures' (height, width), by area; None where there is none.
      sizes: how many different ones.
    """

    examples: int
    unreadable: int
    classes: dict[str, int]
    unlabelled: int
    smallest: Size | None
    median: Size | None
    largest: Size | None
    sizes: int


@dataclasses.dataclass(frozen=True)
class Repeated:
    """A picture that is there more than once: the names, base splits and labels of all its copies."""

    names: list[str]
    splits: list[str]
    labels: list[str]


def of_splits(looked: Looked) -> dict[str, SplitFigures]:
    return {split: _of_split(looked, looked.positions(split)) for split, size in looked.sizes.items() if size}


def count_smaller(looked: Looked, sides: Sequence[int]) -> dict[int, int]:
    """How many pictures have a short side of less than so many pixels."""
    records = looked.records[looked.readable]
    short = np.minimum(records["height"], records["width"])
    return {side: int((short < side).sum()) for side in sides}


def channel_statistics(looked: Looked, positions: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation a channel over all pixels, in [0, 1], of so many examples; None where none can be read.

    Sums of integers are exact, and so are these figures but for the last rounding.
    """
    records = looked.records[positions]
    count = int(pixels(records).sum())
    if not count:
        return None
    channels = records["channels"].max()
    sums = [int(total) for total in records["sums"].sum(axis=0)[:channels]]
    squares = [int(total) for total in records["squares"].sum(axis=0)[:channels]]
    mean = tuple(total / (255 * count) for total in sums)
    # As in `preprocess.channel_statistics`, a channel of a single value is only shifted.
    std = tuple(
        math.sqrt(count * square - total**2) / (255 * count) or 1.0 for total, square in zip(sums, squares, strict=True)
    )
    return mean, std


def repeated(looked: Looked) -> list[np.ndarray]:
    """Positions of pictures that look the same, pixel by pixel: groups of two or more, in order."""
    groups = collections.defaultdict(list)
    for position in np.flatnonzero(looked.readable):
        groups[looked.records["digest"][position].tobytes()].append(position)
    return [np.array(group) for group in groups.values() if len(group) > 1]


def describe_repeated(looked: Looked, group: np.ndarray) -> Repeated:
    labels = looked.records["label"][group]
    return Repeated(
        names=[looked.selection.name(position) for position in group],
        splits=[looked.split_of(position) for position in group],
        labels=[class_name(looked, label) for label in labels],
    )


def class_name(looked: Looked, label: int) -> str:
    """The name of a class, or the label itself where it is none."""
    classes = looked.selection.classes
    return classes[label] if 0 <= label < len(classes) else str(label)


def _of_split(looked: Looked, positions: np.ndarray) -> SplitFigures:
    records = looked.records[positions][looked.readable[positions]]
    classes = looked.selection.classes
    labelled = records["label"][(records["label"] >= 0) & (records["label"] < len(classes))]
    by_area = records[np.argsort(pixels(records), kind="stable")]
    sizes = [(int(record["height"]), int(record["width"])) for record in by_area[["height", "width"]]]
    return SplitFigures(
        examples=len(positions),
        unreadable=len(positions) - len(records),
        classes=dict(zip(classes, np.bincount(labelled, minlength=len(classes)).tolist(), strict=True)),
        unlabelled=len(records) - len(labelled),
        smallest=sizes[0] if sizes else None,
        median=sizes[(len(sizes) - 1) // 2] if sizes else None,
        largest=sizes[-1] if sizes else None,
        sizes=len(set(sizes)),
    )
