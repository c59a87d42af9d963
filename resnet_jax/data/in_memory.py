"""Decoded examples in host memory."""

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np

from resnet_jax.data.decode import Unreadable
from resnet_jax.data.decode_cache import DecodeCache
from resnet_jax.data.host_batches import NO_POSITION, BatchInfo, check_example, decode_image
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError, program
from resnet_jax.terminal import Reporter


@dataclasses.dataclass(frozen=True)
class InMemoryExamples:
    """Examples in host memory; implements `feed.EvaluationData`.

    Attributes:
      images: uint8 [n, height, width, channels].
      labels: int32 [n].
      subset_positions: int64 [n], position of each example in the subset from which it was read. Unreadable examples of
        the subset are missing here.
    """

    images: np.ndarray
    labels: np.ndarray
    subset_positions: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: np.ndarray) -> "InMemoryExamples":
        """Return the examples at these positions."""
        return InMemoryExamples(self.images[positions], self.labels[positions], self.subset_positions[positions])

    def batches(self, batch_size: int, rows: np.ndarray) -> Iterator[tuple[np.ndarray, BatchInfo]]:
        """Iterate over all examples in order; see `feed.EvaluationData.batches`."""
        for start in range(0, len(self), batch_size):
            positions = start + rows
            exists = positions < len(self)
            clipped = np.minimum(positions, len(self) - 1)
            labels = np.where(exists, self.labels[clipped], NO_LABEL)
            yield self.images[clipped], BatchInfo(labels, np.where(exists, positions, NO_POSITION), [])

    def images_at(self, positions: np.ndarray) -> np.ndarray:
        """Return the images at these positions: uint8 [n, height, width, channels]."""
        return self.images[positions]

    def content_digest(self) -> str:
        """Return a hash of all pixels and labels."""
        digest = hashlib.sha256(str(self.images.shape).encode())
        for array in (self.images, self.labels):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def read_examples(subset: Subset, reporter: Reporter, what: str = "examples") -> InMemoryExamples:
    """Read and decode all examples of a subset, or load them from the `DecodeCache`. Leave out unreadable images.

    Args:
      subset: the examples.
      reporter: shows the progress, and registers the images that cannot be read.
      what: names the examples on the progress line.

    Raises:
      UserError: if images differ in shape or are not uint8, if a label is not a class (the message names the example),
        if too many images cannot be read, or if none can be read.
    """
    cache = DecodeCache(subset)
    cached = cache.load()
    if cached:
        return InMemoryExamples(*cached, np.arange(len(subset)))
    images, labels, subset_positions = None, np.empty(len(subset), np.int32), np.empty(len(subset), np.int64)
    count = 0
    for position, image, label in subset.read(reporter, what):
        try:
            if isinstance(image, Unreadable):
                raise image
            pixels = decode_image(image, subset.channels, subset.bit_depth)
        except Unreadable as error:
            reporter.add_unreadable([(subset.name(position), str(error))])
            reporter.check_unreadable()
            continue
        if images is None:
            images = np.empty((len(subset), *pixels.shape), np.uint8)
        check_example(pixels, label, images.shape[1:], subset.num_labels, subset.name(position))
        images[count], labels[count], subset_positions[count] = pixels, label, position
        count += 1
    if images is None:
        raise UserError(f"none of the images can be read. Check the dataset with `{program()} inspect`.")
    if count == len(subset):
        cache.save(images, labels)
    return InMemoryExamples(images[:count], labels[:count], subset_positions[:count])
