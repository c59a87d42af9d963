"""Decoded examples in host memory."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from resnet_jax.data.decode import Unreadable
from resnet_jax.data.decode_cache import DecodeCache
from resnet_jax.data.host_batches import BatchInfo, check_example, pixels_of
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter


@dataclasses.dataclass(frozen=True)
class InMemoryExamples:
    """uint8 images [n, height, width, channels] and int32 labels [n]; int64 `subset_positions` [n], where they were read from.

    The latter is their position in a selection, of which what cannot be read was left out.
    """

    images: np.ndarray
    labels: np.ndarray
    subset_positions: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: np.ndarray) -> "InMemoryExamples":
        return InMemoryExamples(self.images[positions], self.labels[positions], self.subset_positions[positions])

    def batches(self, batch_size: int, rows: np.ndarray) -> Iterator[tuple[np.ndarray, BatchInfo]]:
        """Every example once, in order; of each batch the `rows`, filled up where the examples end."""
        for start in range(0, len(self), batch_size):
            positions = start + rows
            there = positions < len(self)
            held = np.minimum(positions, len(self) - 1)
            labels = np.where(there, self.labels[held], NO_LABEL)
            yield self.images[held], BatchInfo(labels, np.where(there, positions, NO_LABEL), [])

    def images_at(self, positions: np.ndarray) -> np.ndarray:
        """Pictures to look at: uint8 [n, height, width, channels]."""
        return self.images[positions]


def read_examples(selection: Subset, reporter: Reporter, what: str = "examples") -> InMemoryExamples:
    """Reads and decodes all examples of a selection, or has them from earlier; what is unreadable is told and left out.

    `what` names them on the progress line.

    Raises:
      UserError: for pictures of different sizes or not uint8, or labels outside the classes; it names the example.
    """
    decoded = DecodeCache(selection)
    kept = decoded.load()
    if kept:
        return InMemoryExamples(*kept, np.arange(len(selection)))
    images, labels, subset_positions = None, np.empty(len(selection), np.int32), np.empty(len(selection), np.int64)
    count = 0
    for position, image, label in selection.read(reporter, what):
        try:
            if isinstance(image, Unreadable):
                raise image
            pixels = pixels_of(image, selection.channels)
        except Unreadable as why:
            reporter.add_unreadable([(selection.name(position), str(why))])
            reporter.check_unreadable()
            continue
        if images is None:
            images = np.empty((len(selection), *pixels.shape), np.uint8)
        check_example(pixels, label, images.shape[1:], len(selection.classes), selection.name(position))
        images[count], labels[count], subset_positions[count] = pixels, label, position
        count += 1
    if not count:
        raise UserError("not one of the pictures can be read")
    if count == len(selection):
        decoded.keep(images, labels)
    return InMemoryExamples(images[:count], labels[:count], subset_positions[:count])
