"""Scan of a dataset: decode every image, and record its size, its pixel sums and a digest."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping

import numpy as np

from resnet_jax.data import bit_depth as bit_depths
from resnet_jax.data import splits, workers
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.host_batches import decode_image
from resnet_jax.data.preprocess import pixel_sums
from resnet_jax.data.sources import Source
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter

CHUNK = 32  # images that a worker scans before it returns their records

# What is recorded of each image. For unreadable images this is only the label; the rest is 0. Grayscale images use only
# the first of the three sums and squares.
RECORD = np.dtype(
    [
        ("label", np.int32),
        ("height", np.int32),
        ("width", np.int32),
        ("channels", np.int32),
        ("sums", np.int64, 3),  # sums of the pixels in [0, 255], per channel
        ("squares", np.int64, 3),  # sums of the squared pixels, per channel
        ("digest", np.uint8, 32),  # SHA-256 of shape and pixels: equal for images with the same pixels
    ]
)


def num_pixels(records: np.ndarray) -> np.ndarray:
    """Return the number of pixels of each image: int64 [n]."""
    return records["height"].astype(np.int64) * records["width"]


@dataclasses.dataclass(frozen=True)
class ScannedDataset:
    """All examples of a dataset, one base split after another, and what was recorded of them.

    Attributes:
      sizes: number of examples of each base split.
      subset: all examples.
      records: `RECORD` [n].
      unreadable: the positions of the images that cannot be read, and why.
    """

    sizes: Mapping[str, int]
    subset: Subset
    records: np.ndarray
    unreadable: Mapping[int, str]

    @property
    def readable(self) -> np.ndarray:
        """Whether each image can be read: bool [n]."""
        return self.records["height"] > 0

    def positions(self, split: str) -> np.ndarray:
        """Return the positions of the examples that `split` selects, int [m]; raises `UserError` as `splits.select`."""
        starts = dict(zip(self.sizes, itertools.accumulate(self.sizes.values(), initial=0), strict=False))
        return np.concatenate([starts[name] + indices for name, indices in splits.select(split, self.sizes).items()])

    def split_at(self, position: int) -> str:
        """Return the base split of an example."""
        ends = np.cumsum(list(self.sizes.values()))
        return list(self.sizes)[np.searchsorted(ends, position, side="right")]


def scan_images(
    sources: Mapping[str, Source],
    num_workers: int,
    reporter: Reporter,
    bit_depth: int | None = None,
    train_split: str | None = None,
) -> ScannedDataset:
    """Decode all images in full, with up to `num_workers` processes, or with threads if there are few images.

    Args:
      sources: the base splits.
      num_workers: number of processes.
      reporter: shows the progress.
      bit_depth: how many bits 16-bit images use; None: measure it.
      train_split: the split on which it is measured, as in a run; None: all images.
    """
    subset = Subset.from_split(sources, "+".join(sources))
    subset.bit_depth = bit_depth or bit_depths.measure(_select(sources, train_split) or subset)
    chunks = range(math.ceil(len(subset) / CHUNK))
    records, unreadable = [], {}
    show_progress = reporter.counter("scanning images")
    num_workers = workers.useful_workers(num_workers, len(subset))
    with workers.results(_ScanChunk(subset), chunks, num_workers) as results:
        for chunk_records, chunk_unreadable in results:
            records.append(chunk_records)
            unreadable.update(chunk_unreadable)
            show_progress(min(len(records) * CHUNK, len(subset)), len(subset))
    sizes = {split: len(source) for split, source in sources.items()}
    return ScannedDataset(sizes, subset, np.concatenate(records), unreadable)


def _select(sources: Mapping[str, Source], split: str | None) -> Subset | None:
    """Return the examples of a split; None if it cannot be selected, which the plan reports."""
    try:
        return Subset.from_split(sources, split) if split else None
    except UserError:
        return None


@dataclasses.dataclass(frozen=True)
class _ScanChunk:
    subset: Subset

    def __call__(self, number: int) -> tuple[np.ndarray, dict[int, str]]:
        """Return the records of a chunk, and the positions of its images that cannot be read, and why."""
        first = number * CHUNK
        chunk = self.subset.take(np.arange(first, min(first + CHUNK, len(self.subset))))
        records, unreadable = np.zeros(len(chunk), RECORD), {}
        for index, image, label in chunk.read():
            records[index]["label"] = label
            try:
                if isinstance(image, Unreadable):
                    raise image
                _record_pixels(decode_image(image, chunk.channels, chunk.bit_depth), records[index])
            except Unreadable as error:
                unreadable[first + index] = str(error)
        return records, unreadable


def _record_pixels(pixels: np.ndarray, record: np.void) -> None:
    record["height"], record["width"], record["channels"] = pixels.shape
    for channel in range(pixels.shape[-1]):
        record["sums"][channel], record["squares"][channel] = pixel_sums(pixels[..., channel])
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    record["digest"] = np.frombuffer(digest.digest(), np.uint8)
