"""Sources of examples: scikit-learn's digits, TensorFlow Datasets, a folder of images, or a class of your own.

A dataset is a mapping from split names to sources, such as `{"train": ..., "test": ...}`. To train on your own data,
write a class with the three members of `Source`, and pass a mapping from split names to its instances to
`resnet_jax.train`.
"""

import functools
import hashlib
import importlib.util
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from resnet_jax.data import splits
from resnet_jax.data.folder import PREFIX, open_folder
from resnet_jax.data.tfds import open_tfds

IMAGES_HASHED = 1000  # of a source in memory, which may be a memory-mapped file of any size


class Source(Protocol):
    """Examples by index: `len(source)`, `source[i]`, and the names of the classes.

    An example is `(image, label)`. The image is uint8 [height, width, channels] with 1 or 3 channels, or the bytes of
    an image file. The label is an int in [0, len(classes)). Optional members:

      labels: int [n], the labels of all examples, if they are known without reading the examples.
      channels: 1 or 3, number of channels to which image files are decoded; 3 if absent.
      name(index): returns the name of an example for messages, such as the path of its file.
      fingerprint: text that changes whenever the examples change; it allows decoded examples to be cached.
      content_digest: text that changes whenever the images change, but not if they are moved or copied. A resumed run
        with a streaming feed compares it, and `labels`.
      __getitems__(indices): returns a list of examples, if that is faster than one at a time.

    `source[i]` may raise `decode.Unreadable` for an image that cannot be read.

    A streaming feed pickles sources for other processes, which also import the script that trains. The script must
    therefore call `train` inside an `if __name__ == "__main__":` block.
    """

    @property
    def classes(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray | bytes, int]: ...


class ArraySource:
    """Examples in memory.

    Args:
      images: uint8 [n, height, width, channels].
      labels: integers [n].
      classes: the names of the classes.

    Example:
      >>> source = ArraySource(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]), ["cat", "dog"])
      >>> image, label = source[1]
      >>> image.shape, source.classes[label]
      ((8, 8, 1), 'dog')
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]):
        self.images, self.labels, self.classes = images, labels, tuple(classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])

    @functools.cached_property
    def content_digest(self) -> str:
        """Hash of the pixels of up to `IMAGES_HASHED` evenly spaced images."""
        images = self.images[:: math.ceil(len(self) / IMAGES_HASHED)]
        return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def open_sources(name: str, data_dir: str | None = None) -> Mapping[str, Source]:
    """Return the base splits of a dataset.

    Args:
      name: "digits", "folder:/path", or a TFDS name.
      data_dir: for TFDS, the directory of prepared datasets (None: the default of TFDS); for a folder, its new path if
        it has been moved.

    Raises:
      UserError: if the dataset is not available; the message says why and what to do.

    Example:
      >>> sources = open_sources("digits")
      >>> len(sources["train"]), len(sources["test"])
      (1438, 359)
    """
    if name == "digits":
        return _digits()
    return open_folder(name, data_dir) if name.startswith(PREFIX) else open_tfds(name, data_dir)


def _digits() -> dict[str, Source]:
    """Return scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels, a fifth of each class as test split."""
    # Only locate scikit-learn: importing it would take seconds. It is a core dependency, so the result is not None.
    (package,) = importlib.util.find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr, misc]
    table = np.loadtxt(pathlib.Path(package, "datasets", "data", "digits.csv.gz"), delimiter=",")
    images, labels = table[:, :-1], table[:, -1].astype(np.int64)
    # The pixels are counts from 0 to 16.
    images = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    train, test = splits.hold_out(labels, fraction=0.2)
    classes = [str(digit) for digit in range(10)]
    return {
        "train": ArraySource(images[train], labels[train], classes),
        "test": ArraySource(images[test], labels[test], classes),
    }
