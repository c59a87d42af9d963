"""Batches on the host, made of examples: what a streaming run has its workers do."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from resnet_jax import randomness
from resnet_jax.data import crops
from resnet_jax.data.crops import Box
from resnet_jax.data.decode import ImageFile, Unreadable
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError
from resnet_jax.randomness import Use

BoxOf = Callable[[int, int], Box]


class BatchInfo(NamedTuple):
    """What is known of the pictures in the rows of a batch that this process loads.

    labels: int32 [rows], `NO_LABEL` where there is nothing to score; positions: int64 [rows], of the examples in their
    selection; problems: the names of images that could not be read, and why.
    """

    labels: np.ndarray
    positions: np.ndarray
    problems: list[tuple[str, str]]

    @classmethod
    def empty(cls, count: int) -> "BatchInfo":
        return cls(np.full(count, NO_LABEL, np.int32), np.full(count, NO_LABEL, np.int64), [])


def pixels_of(image: np.ndarray | bytes, channels: int) -> np.ndarray:
    """A picture as uint8 [height, width, channels], decoded if it is a file; raises `Unreadable`."""
    return ImageFile(image).pixels(channels) if isinstance(image, bytes) else image


def part_of(image: np.ndarray | bytes, channels: int, box_of: BoxOf, size: int) -> np.ndarray:
    """The part of a picture that `box_of(height, width)` chooses, as uint8 [size, size, channels].

    A JPEG is decoded at a half, a quarter or an eighth of its size, where that leaves enough for `size`.
    """
    if not isinstance(image, bytes):
        return crops.resize(_cut(image, box_of(*image.shape[:2])), size)
    file = ImageFile(image)
    box = box_of(file.height, file.width)
    enough = min(box.height, box.width) / size
    shrink = next(shrink for shrink in (8, 4, 2, 1) if shrink <= max(1, enough))
    pixels = file.pixels(channels, shrink, bottom=math.ceil(box.top + box.height))
    if pixels.shape[1] != file.width:
        vertical, horizontal = pixels.shape[0] / file.height, pixels.shape[1] / file.width
        box = Box(box.top * vertical, box.left * horizontal, box.height * vertical, box.width * horizontal)
    return crops.resize(_cut(pixels, box), size)


def check_example(image: np.ndarray, label: int, shape: tuple[int, ...], num_classes: int, name: str) -> None:
    """Raises `UserError` for what a network cannot be fed, naming the example."""
    if image.dtype != np.uint8 or image.ndim != 3:
        raise UserError(f"{name} is {image.dtype} {list(image.shape)}: sources give uint8 [height, width, channels]")
    if image.shape != shape:
        raise UserError(
            f"{name} has shape {list(image.shape)}, others have {list(shape)}: train with "
            "dataset.image_size and dataset.feed=streaming to have all resized"
        )
    if not 0 <= label < num_classes:
        raise UserError(f"{name} has label {label}, which is none of the {num_classes} classes")


@dataclasses.dataclass(frozen=True)
class Loader:
    """From a position to pixels and a label.

    Attributes:
      selection: the examples.
      shape: (height, width, channels) of all pictures that come out.
      resized: whether they are cut out and resized to that shape, which is square then; else all must have it.
    """

    selection: Subset
    shape: tuple[int, int, int]
    resized: bool

    def __call__(self, position: int, box_of: BoxOf) -> tuple[np.ndarray, int]:
        """Raises `Unreadable`, and `UserError` for a picture of another shape or a label that is no class."""
        image, label = self.selection[position]
        if self.resized:
            pixels = part_of(image, self.shape[-1], box_of, self.shape[0])
        else:
            pixels = pixels_of(image, self.shape[-1])
        check_example(pixels, label, self.shape, len(self.selection.classes), self.selection.name(position))
        return pixels, label


@dataclasses.dataclass(frozen=True)
class TrainingBatches:
    """The batch of a step, as a function of the step: shuffled, and cropped at random.

    Attributes:
      loader: where examples come from.
      batch_size: examples a step, over all processes.
      rows: int [local], which of them this process loads.
      seed: of the run.
      scale: the shares of a picture's area that random crops take; (): the square in its middle.
    """

    loader: Loader
    batch_size: int
    rows: np.ndarray
    seed: int
    scale: tuple[float, float] | tuple[()]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pictures: (rows, height, width, channels)."""
        return (len(self.rows), *self.loader.shape)

    def __call__(self, step: int, images: np.ndarray) -> BatchInfo:
        """Fills in the pictures of a step, uint8 of that shape."""
        size = len(self.loader.selection)
        epoch, number = divmod(step, size // self.batch_size)
        order = epoch_order(self.seed, epoch, size)
        rows = BatchInfo.empty(len(self.rows))
        for row, place in enumerate(number * self.batch_size + self.rows):
            box_of = functools.partial(self._box, epoch, int(place))
            images[row] = self._load(rows, row, int(order[place]), box_of)
        return rows

    def _load(self, rows: BatchInfo, row: int, position: int, box_of: BoxOf) -> np.ndarray:
        """An unreadable picture is replaced by the next that can be read: the same one whoever does it, and when."""
        size = len(self.loader.selection)
        for candidate in range(position, position + size):
            rows.positions[row] = candidate % size
            try:
                pixels, rows.labels[row] = self.loader(candidate % size, box_of)
                return pixels
            except Unreadable as why:
                rows.problems.append((self.loader.selection.name(candidate % size), str(why)))
        raise UserError("not one of the training pictures can be read")

    def _box(self, epoch: int, place: int, height: int, width: int) -> Box:
        if not self.scale:
            return crops.center_square(height, width, resize=1, crop=1)
        draws = randomness.uniform(self.seed, Use.CROPPING, (epoch, place), crops.NUM_DRAWS)
        return crops.random_box(height, width, draws, self.scale)


@dataclasses.dataclass(frozen=True)
class EvaluationBatches:
    """All examples once, in order, a batch for each number; the last is filled up with what is not scored.

    Attributes:
      loader, batch_size, rows: as for `TrainingBatches`.
      resize: to which the short side of a picture is resized, before the middle is cut out at the loader's shape.
    """

    loader: Loader
    batch_size: int
    rows: np.ndarray
    resize: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pictures: (rows, height, width, channels)."""
        return (len(self.rows), *self.loader.shape)

    def __call__(self, number: int, images: np.ndarray) -> BatchInfo:
        """Fills in the pictures of a batch, uint8 of that shape; what is not scored stays black."""
        rows = BatchInfo.empty(len(self.rows))
        images[:] = 0
        for row, position in enumerate(number * self.batch_size + self.rows):
            if position < len(self.loader.selection):
                rows.positions[row] = position
                try:
                    images[row], rows.labels[row] = self.loader(int(position), self.box)
                except Unreadable as why:
                    rows.problems.append((self.loader.selection.name(int(position)), str(why)))
        return rows

    def box(self, height: int, width: int) -> Box:
        return crops.center_square(height, width, self.resize, crop=self.loader.shape[0])


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The positions of `size` examples in the order of an epoch, whichever way they are fed: int64 [size]."""
    return randomness.permutation(seed, Use.SHUFFLING, epoch, size)


def _cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    """The pixels in a box; at least one."""
    top, left = min(round(box.top), pixels.shape[0] - 1), min(round(box.left), pixels.shape[1] - 1)
    bottom, right = max(top + 1, round(box.top + box.height)), max(left + 1, round(box.left + box.width))
    return pixels[top:bottom, left:right]
