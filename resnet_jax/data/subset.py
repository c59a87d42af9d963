"""A subset: the examples selected by a split such as `train[:90%]`, not read yet."""

import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from resnet_jax.data import splits
from resnet_jax.data.decode import MAX_BIT_DEPTH, ImageFile, Unreadable
from resnet_jax.data.sources import Source, as_example, class_names
from resnet_jax.errors import UserError, program
from resnet_jax.terminal import Reporter

READ_AT_ONCE = 1000  # examples
MAX_SHAPES_READ = 64  # images whose shapes are read, to find out whether images differ in size
NO_LABEL = -1  # label of examples that are not scored

Shape = tuple[int, int, int]  # (height, width, channels)


class Subset:
    """Examples of one or several base splits, by position: `len(subset)`, and `subset[position] -> (image, label)`.

    Images and labels are those of the sources; see `sources.Source`.

    Args:
      sources: the base splits.
      source_numbers: int [n], which of the sources each example comes from, as an index into `sources`.
      indices: int [n], the index of each example in its source.

    Attributes:
      classes: the names of the classes.
      channels: 1 or 3, number of channels to which image files are decoded.
      bit_depth: how many bits 16-bit image files use; see `ImageFile.pixels`.
    """

    def __init__(self, sources: Mapping[str, Source], source_numbers: np.ndarray, indices: np.ndarray):
        self._sources, self._source_numbers, self._indices = dict(sources), source_numbers, indices
        self._names = list(sources)
        first = next(iter(sources.values()))
        self.classes, self.channels = class_names(first.classes), getattr(first, "channels", 3)
        self.bit_depth = MAX_BIT_DEPTH

    @classmethod
    def from_split(cls, sources: Mapping[str, Source], split: str) -> "Subset":
        """Return the examples that `split` selects; raises `UserError` as `splits.select` does."""
        selected = splits.select(split, {name: len(source) for name, source in sources.items()})
        sources = {name: sources[name] for name in selected}  # Workers need no other sources.
        numbers = {name: number for number, name in enumerate(sources)}
        source_numbers = np.concatenate([np.full(len(indices), numbers[name]) for name, indices in selected.items()])
        return cls(sources, source_numbers, np.concatenate(list(selected.values())))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> tuple[np.ndarray | bytes, int]:
        name, index = self._locate(position)
        return as_example(self._sources[name][index], self.name(position))

    @property
    def label_sets(self) -> np.ndarray | None:
        """The distinct combinations of labels, bool [sets, classes], or None if each image has one label."""
        return getattr(next(iter(self._sources.values())), "label_sets", None)

    @property
    def decoded_bit_depth(self) -> int | None:
        """The bit depth with which the images were decoded when they were stored; None if images are decoded now."""
        return getattr(next(iter(self._sources.values())), "bit_depth", None)

    @property
    def num_labels(self) -> int:
        """The number of values that the label of an example can have: the number of classes, or of `label_sets`."""
        return len(self.classes) if self.label_sets is None else len(self.label_sets)

    # -----------------------------------------------------------------------------------------------------------------
    # Derived subsets
    # -----------------------------------------------------------------------------------------------------------------

    def take(self, positions: np.ndarray) -> "Subset":
        """Return the examples at these positions.

        `image_shape` and `image_shapes` are kept if they are known already, so that no file is opened again for them.
        They may be shapes of images that were not taken. That does no harm: images that differ in shape are resized, or
        rejected when they are loaded.
        """
        taken = Subset(self._sources, self._source_numbers[positions], self._indices[positions])
        taken.channels, taken.bit_depth = self.channels, self.bit_depth
        for name in ("image_shape", "image_shapes"):
            if name in self.__dict__:
                taken.__dict__[name] = self.__dict__[name]
        return taken

    def as_grayscale(self) -> "Subset":
        """Return the same examples, with images in files decoded to one channel."""
        grayscale = Subset(self._sources, self._source_numbers, self._indices)
        grayscale.channels, grayscale.bit_depth = 1, self.bit_depth
        return grayscale

    # -----------------------------------------------------------------------------------------------------------------
    # What is known without reading all examples
    # -----------------------------------------------------------------------------------------------------------------

    def name(self, position: int) -> str:
        """Return the name of an example for messages: the path of its file, or, for example, `train[17]`."""
        name, index = self._locate(position)
        source = self._sources[name]
        return source.name(index) if hasattr(source, "name") else f"{name}[{index}]"

    def fingerprint(self) -> str | None:
        """Return a hash of the selected examples that changes with their files; None if a source has no fingerprint."""
        candidates = [getattr(source, "fingerprint", None) for source in self._sources.values()]
        fingerprints = [candidate for candidate in candidates if isinstance(candidate, str)]
        if len(fingerprints) < len(candidates):
            return None
        selected = [np.asarray(array, np.int64).tobytes() for array in (self._source_numbers, self._indices)]
        # Fingerprints may contain the names of files, which need not be UTF-8.
        texts = [*fingerprints, str(self.channels), str(self.bit_depth)]
        content = [*(text.encode(errors="surrogateescape") for text in texts), *selected]
        return hashlib.sha256(b"\n".join(content)).hexdigest()

    def content_digest(self) -> str:
        """Return a hash that changes with the selected examples, without reading them.

        It covers the selected indices, and of each source all `labels` and the `content_digest`, if it has them. Unlike
        `fingerprint`, it does not depend on the place where a dataset is stored.
        """
        labels = [getattr(source, "labels", ()) for source in self._sources.values()]
        digest = hashlib.sha256()
        for array in (self._source_numbers, self._indices, *labels):
            digest.update(np.asarray(array, np.int64).tobytes())
        for source in self._sources.values():
            digest.update(str(getattr(source, "content_digest", "")).encode())
        return digest.hexdigest()

    @functools.cached_property
    def image_shape(self) -> Shape:
        """(height, width, channels) of the first image that can be read.

        Raises:
          UserError: if none of the first `MAX_SHAPES_READ` images can be read.
        """
        if "image_shapes" in self.__dict__:
            return self.image_shapes[0]
        return next(self._read_shapes())

    @functools.cached_property
    def image_shapes(self) -> tuple[Shape, ...]:
        """The distinct shapes among the first `MAX_SHAPES_READ` images, starting with `image_shape`.

        Raises:
          UserError: if none of these images can be read.
        """
        return tuple(dict.fromkeys(self._read_shapes()))

    def _read_shapes(self) -> Iterator[Shape]:
        """Iterate over the shapes of those of the first `MAX_SHAPES_READ` images that can be read."""
        count = min(MAX_SHAPES_READ, len(self))
        readable = 0
        for position in range(count):
            try:
                image, _ = self[position]
                if isinstance(image, bytes):
                    file = ImageFile(image)
                    shape = (file.height, file.width, self.channels)
                else:
                    shape = image.shape
            except Unreadable:  # The image is reported when it is used.
                continue
            readable += 1
            yield shape
        if not readable:
            raise UserError(
                f"none of the first {count} images can be read. Check the dataset with `{program()} inspect`."
            )

    # -----------------------------------------------------------------------------------------------------------------
    # Reading
    # -----------------------------------------------------------------------------------------------------------------

    def read(
        self, reporter: Reporter | None = None, what: str = "examples"
    ) -> Iterator[tuple[int, np.ndarray | bytes | Unreadable, int]]:
        """Read all examples in order.

        Args:
          reporter: shows the progress.
          what: names the examples on the progress line.

        Yields:
          (position, image, label). If the source raises `Unreadable` for an example, this error takes the place of the
          image, and the label is `NO_LABEL`.
        """
        show_progress = reporter.counter(f"reading {what}") if reporter else None
        for start in range(0, len(self), READ_AT_ONCE):
            positions = range(start, min(start + READ_AT_ONCE, len(self)))
            for name, group in itertools.groupby(positions, key=lambda position: self._locate(position)[0]):
                yield from self._read_from(self._sources[name], list(group))
            if show_progress:
                show_progress(positions.stop, len(self))

    def listed_labels(self) -> np.ndarray | None:
        """Return the labels, int32 [n], if every source lists them; None otherwise."""
        return self._listed("labels")

    def listed_directories(self) -> np.ndarray | None:
        """Return the number of each example's directory, int32 [n], if the sources have one directory per client."""
        return self._listed("directories")

    def _listed(self, member: str) -> np.ndarray | None:
        """Return a number for each example, int32 [n], from this member of the sources, if every source has it."""
        values = np.empty(len(self), np.int32)
        for number in np.unique(self._source_numbers):
            listed = getattr(self._sources[self._names[number]], member, None)
            if listed is None:
                return None
            is_from_source = self._source_numbers == number
            values[is_from_source] = np.asarray(listed)[self._indices[is_from_source]]
        return values

    def read_labels(self, reporter: Reporter | None = None, what: str = "examples") -> np.ndarray:
        """Return the labels, int32 [n]; examples are read only if a source does not list its labels."""
        listed = self.listed_labels()
        if listed is not None:
            return listed
        return np.array([label for _, _, label in self.read(reporter, what)], np.int32)

    def _read_from(self, source: Source, positions: list[int]) -> Iterator:
        """Read examples that lie in the same source; see `read`."""
        if hasattr(source, "__getitems__"):
            examples = source.__getitems__([int(self._indices[position]) for position in positions])
            for position, example in zip(positions, examples, strict=True):
                yield position, *as_example(example, self.name(position))
            return
        for position in positions:
            try:
                yield position, *self[position]
            except Unreadable as error:
                yield position, error, NO_LABEL

    def _locate(self, position: int) -> tuple[str, int]:
        """Return the name of the source of an example and its index there."""
        return self._names[self._source_numbers[position]], int(self._indices[position])
