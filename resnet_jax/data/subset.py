"""The examples that a run is about: chosen from the base splits of a data set, and not read yet."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from resnet_jax.data import splits
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.sources import Source
from resnet_jax.terminal import Reporter

READ_AT_ONCE = 1000
NO_LABEL = -1  # of what is not to be scored


class Subset:
    """Chosen examples, by position: `len(selection)`, `selection[position] -> (image, label)`, as of their sources.

    Attributes:
      classes: the names of the classes.
      channels: 1 or 3, of pictures decoded from files.
    """

    def __init__(self, sources: Mapping[str, Source], which: np.ndarray, index: np.ndarray):
        """`which` of the sources, by number, and at which index there each example is: int [n]."""
        self._sources, self._which, self._index = dict(sources), which, index
        self._names = list(sources)
        first = next(iter(sources.values()))
        self.classes, self.channels = tuple(first.classes), getattr(first, "channels", 3)

    @classmethod
    def of(cls, sources: Mapping[str, Source], split: str) -> "Subset":
        """The examples that `split` names; raises `UserError` as `splits.select` does."""
        chosen = splits.select(split, {name: len(source) for name, source in sources.items()})
        sources = {name: sources[name] for name in chosen}  # The others need not be sent to workers.
        numbers = {name: number for number, name in enumerate(sources)}
        which = np.concatenate([np.full(len(indices), numbers[name]) for name, indices in chosen.items()])
        return cls(sources, which, np.concatenate(list(chosen.values())))

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, position: int) -> tuple[np.ndarray | bytes, int]:
        name, index = self._find(position)
        return self._sources[name][index]

    def take(self, positions: np.ndarray) -> "Subset":
        return Subset(self._sources, self._which[positions], self._index[positions])

    def in_grey(self) -> "Subset":
        """The same examples, with pictures in files decoded to one channel."""
        grey = self.take(np.arange(len(self)))
        grey.channels = 1
        return grey

    def name(self, position: int) -> str:
        """What people know an example by: the path of its file, or `train[17]`."""
        name, index = self._find(position)
        source = self._sources[name]
        return source.name(index) if hasattr(source, "name") else f"{name}[{index}]"

    def fingerprint(self) -> str | None:
        """Tells this selection from all others, also of files that have changed since; None where sources have none."""
        of_sources = [getattr(source, "fingerprint", None) for source in self._sources.values()]
        if not all(isinstance(of_source, str) for of_source in of_sources):
            return None
        chosen = [np.asarray(array, np.int64).tobytes() for array in (self._which, self._index)]
        parts = [*map(str.encode, of_sources), str(self.channels).encode(), *chosen]
        return hashlib.sha256(b"\n".join(parts)).hexdigest()

    def _find(self, position: int) -> tuple[str, int]:
        return self._names[self._which[position]], int(self._index[position])

    def read(
        self, reporter: Reporter | None = None, what: str = "examples"
    ) -> Iterator[tuple[int, np.ndarray | bytes | Unreadable, int]]:
        """Yield all examples in order, as (position, image or why there is none, label).

        `what` names them on the progress line of `reporter`.
        """
        show = reporter.counter(f"reading {what}") if reporter else None
        for start in range(0, len(self), READ_AT_ONCE):
            positions = range(start, min(start + READ_AT_ONCE, len(self)))
            for name, some in itertools.groupby(positions, key=lambda position: self._find(position)[0]):
                yield from self._read_from(self._sources[name], list(some))
            if show:
                show(positions.stop, len(self))

    def read_labels(self, reporter: Reporter | None = None, what: str = "examples") -> np.ndarray:
        """The labels, int32 [n]; only where a source does not list them are its examples read."""
        used = [self._names[number] for number in np.unique(self._which)]
        if not all(hasattr(self._sources[name], "labels") for name in used):
            return np.array([label for _, _, label in self.read(reporter, what)], np.int32)
        labels = np.empty(len(self), np.int32)
        for name in used:
            of_source = self._which == self._names.index(name)
            labels[of_source] = np.asarray(self._sources[name].labels)[self._index[of_source]]
        return labels

    def _read_from(self, source: Source, positions: list[int]) -> Iterator:
        if hasattr(source, "__getitems__"):
            examples = source.__getitems__([int(self._index[position]) for position in positions])
            yield from ((position, *example) for position, example in zip(positions, examples, strict=True))
            return
        for position in positions:
            try:
                yield position, *self[position]
            except Unreadable as why:
                yield position, why, NO_LABEL
