"""Where examples come from: scikit-learn's digits, TensorFlow Datasets, a folder of pictures, or a source of one's own.

A data set is a mapping from split names to sources, such as `{"train": ..., "test": ...}`. To train on your own data,
write a class with the three members of `Source` and hand two of them to `resnet_jax.train`.
"""

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from resnet_jax.data import splits
from resnet_jax.data.folder import PREFIX, open_folder
from resnet_jax.data.tfds import open_tfds


class Source(Protocol):
    """Examples by index: `len(source)`, `source[i]`, and the names of the classes.

    An example is `(image, label)`. The image is uint8 [height, width, channels] with 1 or 3 channels, or the bytes of a
    picture file; the label is an int in [0, len(classes)). What more a source may have:

      labels: int [n], of all examples, if they are known without reading them.
      channels: 1 or 3, of the pictures that files are decoded to; 3 where it is absent.
      name(index): what people know an example by, such as the path of its file.
      fingerprint: text that is another one where the examples are others; then what is decoded of them may be kept.
      __getitems__(indices): a list of examples, if that is faster than one after another.

    `source[i]` may raise `decode.Unreadable`. Where examples are streamed, sources are pickled for other processes,
    which also read the script that trains: it must do so under `if __name__ == "__main__":`.
    """

    classes: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray | bytes, int]: ...


class ArraySource:
    """Examples in memory: uint8 images [n, height, width, channels] and integer labels [n]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]):
        self.images, self.labels, self.classes = images, labels, tuple(classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])


def open_sources(name: str, data_dir: str | None = None) -> dict[str, Source]:
    """The splits of the data set `name`: "digits", "folder:/path", or a TFDS name.

    Args:
      name: of the set.
      data_dir: where TFDS keeps sets; of a folder, where it has been moved to. None: the usual place.

    Raises:
      UserError: where it is not to be had; it says why, and what to do.
    """
    if name == "digits":
        return _digits()
    return open_folder(name, data_dir) if name.startswith(PREFIX) else open_tfds(name, data_dir)


def _digits() -> dict[str, Source]:
    """scikit-learn's handwritten digits: 1,797 pictures of 8x8 pixels, a fifth of each class as test split."""
    # Only found, not imported, which would take seconds: of the whole package this file is needed.
    package = importlib.util.find_spec("sklearn").submodule_search_locations[0]
    table = np.loadtxt(pathlib.Path(package, "datasets", "data", "digits.csv.gz"), delimiter=",")
    images, labels = table[:, :-1], table[:, -1].astype(np.int64)
    # The pixels are counts from 0 to 16.
    images = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    train, test = splits.hold_out(labels, fraction=0.2)
    classes = [str(digit) for digit in range(10)]
    return {"train": ArraySource(images[train], labels[train], classes),
            "test": ArraySource(images[test], labels[test], classes)}  # fmt: skip
