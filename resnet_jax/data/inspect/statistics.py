"""Statistics of a scanned dataset."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from resnet_jax.data import class_matching
from resnet_jax.data.inspect.scan import ScannedDataset, num_pixels
from resnet_jax.data.preprocess import Statistics, mean_and_std

Size = tuple[int, int]  # (height, width)


@dataclasses.dataclass(frozen=True)
class SplitStatistics:
    """Statistics of a base split.

    Attributes:
      examples: number of examples.
      unreadable: number of images that cannot be read. The attributes below describe the readable ones.
      classes: number of examples per class, by the names of `class_matching.distinct`.
      unlabelled: number of examples whose label is not a class, such as -1.
      smallest, median, largest: (height, width) of images, ordered by area; None if no image is readable.
      sizes: number of distinct sizes.
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
    """An image that occurs more than once: the names, base splits and labels of all its copies."""

    names: list[str]
    splits: list[str]
    labels: list[str]


def split_statistics(scanned: ScannedDataset) -> dict[str, SplitStatistics]:
    """Return the statistics of each base split that has examples."""
    return {split: _describe_split(scanned, scanned.positions(split)) for split, size in scanned.sizes.items() if size}


def count_smaller(scanned: ScannedDataset, sides: Sequence[int]) -> dict[int, int]:
    """Return, for each of `sides`, how many images have a short side of fewer pixels."""
    records = scanned.records[scanned.readable]
    short = np.minimum(records["height"], records["width"])
    return {side: int((short < side).sum()) for side in sides}


def channel_statistics(scanned: ScannedDataset, positions: np.ndarray) -> Statistics | None:
    """Return mean and std per channel, for pixels in [0, 1], of the images at `positions`; None if none is readable."""
    records = scanned.records[positions]
    count = int(num_pixels(records).sum())
    if not count:
        return None
    channels = records["channels"].max()
    sums = [int(total) for total in records["sums"].sum(axis=0)[:channels]]
    squares = [int(total) for total in records["squares"].sum(axis=0)[:channels]]
    return mean_and_std(count, sums, squares)


def repeated_groups(scanned: ScannedDataset) -> list[np.ndarray]:
    """Return the positions of images that are identical pixel by pixel, in groups of two or more, in order."""
    groups = collections.defaultdict(list)
    for position in np.flatnonzero(scanned.readable):
        groups[scanned.records["digest"][position].tobytes()].append(position)
    return [np.array(group) for group in groups.values() if len(group) > 1]


def describe_repeated(scanned: ScannedDataset, group: np.ndarray) -> Repeated:
    """Return the names, base splits and labels of a group of identical images."""
    labels = scanned.records["label"][group]
    return Repeated(
        names=[scanned.subset.name(position) for position in group],
        splits=[scanned.split_at(position) for position in group],
        labels=[class_name(scanned, label) for label in labels],
    )


def class_name(scanned: ScannedDataset, label: int) -> str:
    """Return the name of a class, or the label itself if it is not a class."""
    classes = scanned.subset.classes
    return classes[label] if 0 <= label < len(classes) else str(label)


def _describe_split(scanned: ScannedDataset, positions: np.ndarray) -> SplitStatistics:
    records = scanned.records[positions][scanned.readable[positions]]
    classes = class_matching.distinct(scanned.subset.classes)
    labeled = records["label"][(records["label"] >= 0) & (records["label"] < len(classes))]
    by_area = records[np.argsort(num_pixels(records), kind="stable")]
    sizes = [(int(record["height"]), int(record["width"])) for record in by_area[["height", "width"]]]
    return SplitStatistics(
        examples=len(positions),
        unreadable=len(positions) - len(records),
        classes=dict(zip(classes, np.bincount(labeled, minlength=len(classes)).tolist(), strict=True)),
        unlabelled=len(records) - len(labeled),
        smallest=sizes[0] if sizes else None,
        median=sizes[(len(sizes) - 1) // 2] if sizes else None,
        largest=sizes[-1] if sizes else None,
        sizes=len(set(sizes)),
    )
