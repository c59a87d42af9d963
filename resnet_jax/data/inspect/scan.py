"""Looking at every picture of a data set, once."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from resnet_jax.data import splits, workers
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.host_batches import pixels_of
from resnet_jax.data.sources import Source
from resnet_jax.data.subset import Subset
from resnet_jax.terminal import Reporter

AT_ONCE = 32  # pictures that a worker looks at before it tells of them
BAND = 2**20  # pixels that are counted at once: NumPy takes eight bytes for each
LEVELS = np.arange(256)

# What is kept of a picture. Of grey ones the first channel counts; of what cannot be read, the label alone.
RECORD = np.dtype(
    [
        ("label", np.int32),
        ("height", np.int32),
        ("width", np.int32),
        ("channels", np.int32),
        ("sums", np.int64, 3),  # of the pixels in [0, 255], a channel
        ("squares", np.int64, 3),  # sums of their squares
        ("digest", np.uint8, 32),  # SHA-256 of shape and pixels: equal where two pictures look the same
    ]
)


def pixels(records: np.ndarray) -> np.ndarray:
    """How many pixels pictures have: int64 [n]."""
    return records["height"].astype(np.int64) * records["width"]


@dataclasses.dataclass(frozen=True)
class Looked:
    """All examples of a data set, one base split after another, and what was seen of them.

    Attributes:
      sizes: how many examples each base split has.
      selection: all of them.
      records: `RECORD` [n].
      unreadable: why a picture cannot be read, by its position.
    """

    sizes: Mapping[str, int]
    selection: Subset
    records: np.ndarray
    unreadable: Mapping[int, str]

    @property
    def readable(self) -> np.ndarray:
        """bool [n]."""
        return self.records["height"] > 0

    def positions(self, split: str) -> np.ndarray:
        """Where the examples are that `split` names, int [m]; raises `UserError` as `splits.select` does."""
        starts = dict(zip(self.sizes, itertools.accumulate(self.sizes.values(), initial=0), strict=False))
        return np.concatenate([starts[name] + indices for name, indices in splits.select(split, self.sizes).items()])

    def split_of(self, position: int) -> str:
        """The base split that an example is of."""
        ends = np.cumsum(list(self.sizes.values()))
        return list(self.sizes)[np.searchsorted(ends, position, side="right")]


def look(sources: Mapping[str, Source], num_workers: int, reporter: Reporter) -> Looked:
    """Decodes all pictures in full, by up to `num_workers` processes or, where few do not pay, by threads."""
    selection = Subset.of(sources, "+".join(sources))
    numbers = range(-(-len(selection) // AT_ONCE))
    show = reporter.counter("scanning images")
    records, unreadable = [], {}
    num_workers = workers.worthwhile(num_workers, len(selection))
    with workers.results(_LookAtSome(selection), numbers, num_workers) as results:
        for some, problems in results:
            records.append(some)
            unreadable.update(problems)
            show(min(len(records) * AT_ONCE, len(selection)), len(selection))
    sizes = {split: len(source) for split, source in sources.items()}
    return Looked(sizes, selection, np.concatenate(records), unreadable)


@dataclasses.dataclass(frozen=True)
class _LookAtSome:
    selection: Subset

    def __call__(self, number: int) -> tuple[np.ndarray, dict[int, str]]:
        """The records of so many pictures, and what cannot be read of them, by position."""
        first = number * AT_ONCE
        some = self.selection.take(np.arange(first, min(first + AT_ONCE, len(self.selection))))
        records, problems = np.zeros(len(some), RECORD), {}
        for place, image, label in some.read():
            records[place]["label"] = label
            try:
                if isinstance(image, Unreadable):
                    raise image
                _describe(pixels_of(image, some.channels), records[place])
            except Unreadable as why:
                problems[first + place] = str(why)
        return records, problems


def _describe(picture: np.ndarray, record: np.void) -> None:
    record["height"], record["width"], record["channels"] = picture.shape
    for channel in range(picture.shape[-1]):
        counts = sum(np.bincount(band, minlength=256) for band in _bands(picture[..., channel]))
        record["sums"][channel], record["squares"][channel] = counts @ LEVELS, counts @ LEVELS**2
    digest = hashlib.sha256(repr(picture.shape).encode())
    digest.update(np.ascontiguousarray(picture))
    record["digest"] = np.frombuffer(digest.digest(), np.uint8)


def _bands(channel: np.ndarray) -> Iterator[np.ndarray]:
    """The pixels of one channel, flat, some rows at a time."""
    rows = max(1, BAND // channel.shape[1])
    for top in range(0, len(channel), rows):
        yield channel[top : top + rows].reshape(-1)
