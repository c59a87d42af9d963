"""Decoding, cropping and batching on the host: the work of the data workers of a streaming feed."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from resnet_jax import randomness
from resnet_jax.data import crops
from resnet_jax.data.crops import Box
from resnet_jax.data.decode import MAX_BIT_DEPTH, ImageFile, Unreadable
from resnet_jax.data.sampling import Sampler
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError, program
from resnet_jax.randomness import Use

NO_POSITION = -1  # position of rows that are padding

ChooseBox = Callable[[int, int], Box]  # a function of the height and width of an image


class BatchInfo(NamedTuple):
    """Everything about the rows of a batch that this process loads, except their pixels.

    Attributes:
      labels: int32 [rows]; `NO_LABEL` for rows that are not scored, because they are padding or unreadable.
      positions: int64 [rows], position of each example in its subset; `NO_POSITION` for padding.
      problems: names of the images that could not be read, and why.
    """

    labels: np.ndarray
    positions: np.ndarray
    problems: list[tuple[str, str]]

    @classmethod
    def padding(cls, num_rows: int) -> "BatchInfo":
        """Return the info of rows that hold nothing yet."""
        return cls(np.full(num_rows, NO_LABEL, np.int32), np.full(num_rows, NO_POSITION, np.int64), [])


# ---------------------------------------------------------------------------------------------------------------------
# One example
# ---------------------------------------------------------------------------------------------------------------------


def decode_image(image: np.ndarray | bytes, channels: int, bit_depth: int = MAX_BIT_DEPTH) -> np.ndarray:
    """Return an image as uint8 [height, width, channels], decoding it if it is a file; raises `Unreadable`."""
    return ImageFile(image).pixels(channels, bit_depth=bit_depth) if isinstance(image, bytes) else image


def load_crop(
    image: np.ndarray | bytes, channels: int, choose_box: ChooseBox, size: int, bit_depth: int = MAX_BIT_DEPTH
) -> np.ndarray:
    """Crop an image to the box that `choose_box(height, width)` returns, and resize it.

    A JPEG is decoded at a half, a quarter or an eighth of its size if that leaves enough pixels for `size`.

    Returns:
      uint8 [size, size, channels].

    Raises:
      Unreadable: if the image cannot be decoded.
    """
    if not isinstance(image, bytes):
        return crops.resize(_crop(image, choose_box(*image.shape[:2])), size)
    file = ImageFile(image)
    box = choose_box(file.height, file.width)
    max_shrink = max(1, min(box.height, box.width) / size)
    shrink = next(shrink for shrink in (8, 4, 2, 1) if shrink <= max_shrink)
    pixels = file.pixels(channels, shrink, bottom=math.ceil(box.top + box.height), bit_depth=bit_depth)
    if pixels.shape[1] != file.width:
        vertical, horizontal = pixels.shape[0] / file.height, pixels.shape[1] / file.width
        box = Box(box.top * vertical, box.left * horizontal, box.height * vertical, box.width * horizontal)
    return crops.resize(_crop(pixels, box), size)


def check_example(image: np.ndarray, label: int, shape: tuple[int, ...], num_labels: int, name: str) -> None:
    """Raise `UserError` if an image does not have `shape`, or if a label is not in [0, num_labels)."""
    if image.shape != shape:
        raise UserError(
            f"{name} has shape {list(image.shape)}, but other images have shape {list(shape)}. Set dataset.image_size "
            "and dataset.feed=streaming to resize all images."
        )
    check_label(label, num_labels, name)


def check_label(label: int, num_labels: int, name: str) -> None:
    """Raise `UserError` if a label is not in [0, num_labels)."""
    if not 0 <= label < num_labels:
        raise UserError(f"{name} has label {label}, but labels must be from 0 to {num_labels - 1}. Correct the label.")


@dataclasses.dataclass(frozen=True)
class ExampleLoader:
    """Loads the pixels and the label at a position of a subset.

    Attributes:
      subset: the examples.
      shape: (height, width, channels) of all loaded images.
      resized: whether images are cropped and resized to `shape`, which is then square; otherwise all images must have
        that shape already.
    """

    subset: Subset
    shape: tuple[int, int, int]
    resized: bool

    def __call__(self, position: int, choose_box: ChooseBox) -> tuple[np.ndarray, int]:
        """Return an image and its label.

        Raises:
          Unreadable: if the image cannot be read.
          UserError: if the image has the wrong shape or the label is not a class.
        """
        image, label = self.subset[position]
        if self.resized:
            pixels = load_crop(image, self.shape[-1], choose_box, self.shape[0], self.subset.bit_depth)
        else:
            pixels = decode_image(image, self.shape[-1], self.subset.bit_depth)
        check_example(pixels, label, self.shape, self.subset.num_labels, self.subset.name(position))
        return pixels, label


# ---------------------------------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrainingBatchLoader:
    """Loads the batch of a training step, shuffled and randomly cropped, as a function of the step.

    Attributes:
      loader: loads the examples.
      batch_size: examples per step, over all processes.
      rows: int [local], the rows of each batch that this process loads.
      sampler: the order of the examples; its seed also determines the random crops.
      scale: smallest and largest fraction of an image's area for random crops; (): crop the central square instead.
    """

    loader: ExampleLoader
    batch_size: int
    rows: np.ndarray
    sampler: Sampler
    scale: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the loaded images: (rows, height, width, channels)."""
        return (len(self.rows), *self.loader.shape)

    def __call__(self, step: int, images: np.ndarray) -> BatchInfo:
        """Write the images of a step into `images`, uint8 of shape `self.shape`."""
        epoch, step_in_epoch = divmod(step, self.sampler.size // self.batch_size)
        order = self.sampler(epoch)
        info = BatchInfo.padding(len(self.rows))
        for row, order_index in enumerate(step_in_epoch * self.batch_size + self.rows):
            choose_box = functools.partial(self._choose_box, epoch, int(order_index))
            images[row] = self._load(info, row, self.sampler.candidates(epoch, int(order[order_index])), choose_box)
        return info

    def _load(self, info: BatchInfo, row: int, candidates: Iterable[int], choose_box: ChooseBox) -> np.ndarray:
        """Load the first readable example at these positions. Fill in this row of `info`."""
        for candidate in candidates:
            info.positions[row] = candidate
            try:
                pixels, info.labels[row] = self.loader(candidate, choose_box)
                return pixels
            except Unreadable as error:
                info.problems.append((self.loader.subset.name(candidate), str(error)))
        assert info.problems  # There are candidates.
        raise UserError(
            f"{info.problems[-1][0]} cannot be read, and neither can any training image that could take its place. "
            f"Check the dataset with `{program()} inspect`."
        )

    def _choose_box(self, epoch: int, order_index: int, height: int, width: int) -> Box:
        if not self.scale:  # The whole central square.
            return crops.center_square(height, width, resize=1, crop=1)
        draws = randomness.uniform(self.sampler.seed, Use.CROPPING, (epoch, order_index), crops.NUM_DRAWS)
        smallest, largest = self.scale
        return crops.random_box(height, width, draws, (smallest, largest))


@dataclasses.dataclass(frozen=True)
class EvaluationBatchLoader:
    """Loads all examples in batches, each example once and in order; the last batch is padded.

    The row of an unreadable image is black, and its label is `NO_LABEL`, so that it is not scored.

    Attributes:
      loader, batch_size, rows: see `TrainingBatchLoader`.
      resize: length to which the short side of an image is resized before the center is cropped to the loader's shape;
        None if the loader does not resize.
    """

    loader: ExampleLoader
    batch_size: int
    rows: np.ndarray
    resize: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the loaded images: (rows, height, width, channels)."""
        return (len(self.rows), *self.loader.shape)

    def __call__(self, number: int, images: np.ndarray) -> BatchInfo:
        """Write the images of a batch into `images`, uint8 of shape `self.shape`. Padding is black."""
        info = BatchInfo.padding(len(self.rows))
        images[:] = 0
        for row, position in enumerate(number * self.batch_size + self.rows):
            if position >= len(self.loader.subset):
                continue
            info.positions[row] = position
            try:
                images[row], info.labels[row] = self.loader(int(position), self.choose_box)
            except Unreadable as error:
                info.problems.append((self.loader.subset.name(int(position)), str(error)))
        return info

    def choose_box(self, height: int, width: int) -> Box:
        """Return the central square that is scored."""
        assert self.resize is not None
        return crops.center_square(height, width, self.resize, crop=self.loader.shape[0])


def _crop(pixels: np.ndarray, box: Box) -> np.ndarray:
    """Return the pixels in a box, at least one row and one column."""
    top, left = min(round(box.top), pixels.shape[0] - 1), min(round(box.left), pixels.shape[1] - 1)
    bottom, right = max(top + 1, round(box.top + box.height)), max(left + 1, round(box.left + box.width))
    return pixels[top:bottom, left:right]
