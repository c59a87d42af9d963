"""Decoded examples in host memory, and the parts of a data set that a run needs."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from resnet_jax.data import splits
from resnet_jax.data.sources import Source
from resnet_jax.errors import UserError

VALIDATION_FRACTION = 0.1  # of the training split, where no validation split is named
READ_AT_ONCE = 1000

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Examples:
    """uint8 images [n, height, width, channels] and int32 labels [n]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Examples":
        return Examples(self.images[indices], self.labels[indices])


def read_split(sources: Mapping[str, Source], split: str, progress: Progress | None = None) -> Examples:
    """Reads and decodes the examples that `split` names, telling `progress` how many of how many.

    Raises:
      UserError: for a split that does not exist, pictures of different sizes or not uint8, or labels outside the
        classes; it names the example.
    """
    chosen = splits.select(split, {name: len(source) for name, source in sources.items()})
    total = sum(len(indices) for indices in chosen.values())
    images, labels = None, np.empty(total, np.int32)
    done = 0
    for name, indices in chosen.items():
        source = sources[name]
        for start in range(0, len(indices), READ_AT_ONCE):
            some = [int(index) for index in indices[start : start + READ_AT_ONCE]]
            for index, (image, label) in zip(some, _read(source, some), strict=True):
                if images is None:
                    images = np.empty((total, *image.shape), np.uint8)
                _check(image, label, images.shape[1:], len(source.classes), f"{name}[{index}]")
                images[done], labels[done] = image, label
                done += 1
            if progress:
                progress(done, total)
    return Examples(images, labels)


def read_training(
    dataset: ConfigDict, sources: Mapping[str, Source], progress: Progress | None = None
) -> tuple[Examples, Examples | None]:
    """The examples for training and for validation, as `dataset.train_split` and `dataset.validation_split` say.

    Raises:
      UserError: as `read_split`, and where training, validation and test share examples.
    """
    sizes = {name: len(source) for name, source in sources.items()}
    named = [dataset.train_split, dataset.validation_split, dataset.test_split]
    named = [split for split in named if split not in ("", "none")]
    for position, split in enumerate(named):
        for other in named[position + 1 :]:
            splits.check_disjoint(split, other, sizes)
    train = read_split(sources, dataset.train_split, progress)
    if dataset.validation_split == "none":
        return train, None
    if dataset.validation_split:
        return train, read_split(sources, dataset.validation_split, progress)
    kept, held_out = splits.hold_out(train.labels, VALIDATION_FRACTION)
    if not len(held_out):
        raise UserError(
            f"{len(train)} training examples are too few to hold out a tenth of each class for validation: "
            "set dataset.validation_split, or 'none' to go without"
        )
    return train.take(kept), train.take(held_out)


def _read(source: Source, indices: list[int]) -> list[tuple[np.ndarray, int]]:
    if hasattr(source, "__getitems__"):
        return source.__getitems__(indices)
    return [source[index] for index in indices]


def _check(image: np.ndarray, label: int, shape: tuple[int, ...], num_classes: int, name: str) -> None:
    if image.dtype != np.uint8 or image.ndim != 3:
        raise UserError(f"{name} is {image.dtype} {list(image.shape)}: sources give uint8 [height, width, channels]")
    if image.shape != shape:
        raise UserError(f"{name} has shape {list(image.shape)}, others have {list(shape)}: all must be of one size")
    if not 0 <= label < num_classes:
        raise UserError(f"{name} has label {label}, which is none of the {num_classes} classes")
