"""Sources of examples: scikit-learn's digits, TFDS, images in folders, lists or decoded files, or your own class.

A dataset is a mapping from split names to sources, such as `{"train": ..., "test": ...}`. To train on your own data,
write a class with the three members of `Source`, and pass a mapping from split names to its instances to
`resnet_jax.train`.
"""

import functools
import hashlib
import importlib.util
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Protocol

import numpy as np

from resnet_jax.data import client_folders, csv_file, decoded, folder, multi_label_folder, splits, unlabeled_folder
from resnet_jax.data.tfds import is_prepared, open_tfds
from resnet_jax.errors import UserError

IMAGES_HASHED = 1000  # of a source in memory, which may be a memory-mapped file of any size
LOCAL_DATASETS: dict[str, "Opener"] = {  # files of the user, by the prefixes of their names
    folder.PREFIX: folder.open_folder,
    csv_file.PREFIX: csv_file.open_csv,
    multi_label_folder.PREFIX: multi_label_folder.open_multi_label_folder,
    unlabeled_folder.PREFIX: unlabeled_folder.open_unlabeled_folder,
    client_folders.PREFIX: client_folders.open_clients,
    decoded.PREFIX: decoded.open_decoded,
}
NUMBERS = "biuf"  # kinds of NumPy's dtypes: bool, int, uint and float
EXAMPLE = (
    "An example is (image, label): a uint8 array [height, width, channels] with 1 or 3 channels, or the bytes of an "
    "image file; and an int, the index of its class."
)


Opener = Callable[[str, str | None], Mapping[str, "Source"]]  # see `open_sources`


class Source(Protocol):
    """Examples by index: `len(source)`, `source[i]`, and the names of the classes.

    An example is `(image, label)`. The image is uint8 [height, width, channels] with 1 or 3 channels, or the bytes of
    an image file. The label is an int in [0, len(classes)). Optional members:

      labels: int [n], the labels of all examples, if they are known without reading the examples.
      label_sets: bool [sets, classes], for several labels per image: the distinct combinations of classes, the same for
        all splits. The label of an example is then the number of its row, an int in [0, sets).
      directories: int [n], the number of each example's client, for `federated.partition="directories"`.
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
      labels: integers [n] or [n, 1].
      classes: the names of the classes.

    Raises:
      UserError: if the labels are not integers, one per image, or the classes are not a list of names.

    Example:
      >>> source = ArraySource(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]), ["cat", "dog"])
      >>> image, label = source[1]
      >>> image.shape, source.classes[label]
      ((8, 8, 1), 'dog')
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]):
        self.images, self.labels, self.classes = images, np.asarray(labels), class_names(classes)
        if self.labels.size == len(images):
            self.labels = self.labels.reshape(-1)
        _check_labels(self.labels, len(images))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])

    @functools.cached_property
    def content_digest(self) -> str:
        """Hash of up to `IMAGES_HASHED` evenly spaced images."""
        digest = hashlib.sha256()
        for image in self.images[:: math.ceil(len(self) / IMAGES_HASHED)]:
            digest.update(f"{np.shape(image)}".encode() + np.asarray(image).tobytes())
        return digest.hexdigest()


class WithoutLabels:
    """The images of another source, with the label 0 in place of their own labels."""

    classes = unlabeled_folder.CLASSES

    def __init__(self, source: Source):
        self._source = source
        self.channels = getattr(source, "channels", 3)
        self.bit_depth = getattr(source, "bit_depth", None)
        if hasattr(source, "name"):
            self.name = source.name
        if hasattr(source, "__getitems__"):
            self.__getitems__ = self._several

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[np.ndarray | bytes, int]:
        return self._source[index][0], 0

    def _several(self, indices: Sequence[int]) -> list[tuple[np.ndarray | bytes, int]]:
        return [(image, 0) for image, _ in self._source.__getitems__(indices)]  # type: ignore[attr-defined]

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the source, changed, because decoded examples are cached together with their labels."""
        fingerprint = getattr(self._source, "fingerprint", None)
        return fingerprint and f"{fingerprint} without labels"

    @property
    def content_digest(self) -> str:
        """The content digest of the source, which does not depend on the labels."""
        return getattr(self._source, "content_digest", "")


def open_sources(name: str, data_dir: str | None = None) -> Mapping[str, Source]:
    """Return the base splits of a dataset.

    Args:
      name: "digits", a TFDS name, or a prefix of `LOCAL_DATASETS` and a path, such as "folder:/path".
      data_dir: for TFDS, the directory of prepared datasets (None: the default of TFDS); for a folder or a CSV file,
        its new path if it has been moved.

    Raises:
      UserError: if the dataset is not available; the message says why and what to do.

    Example:
      >>> sources = open_sources("digits")
      >>> len(sources["train"]), len(sources["test"])
      (1438, 359)
    """
    if name == "digits":
        return _digits()
    for prefix, open_local in LOCAL_DATASETS.items():
        if name == prefix:
            raise UserError(f"no path given. Use --config.dataset.name={prefix}/path.")
        if name.startswith(prefix):
            return open_local(name, data_dir)
    return open_tfds(name, data_dir)


def canonical_name(name: str) -> str:
    """Return the name of a dataset. A path in it is made absolute, so that the name is valid in any working directory.

    Raises:
      UserError: if the path is a URL.
    """
    for prefix in LOCAL_DATASETS:
        if name.startswith(prefix) and name != prefix:
            return prefix + folder.canonical_path(name.removeprefix(prefix))
    return name


def canonical_data_dir(data_dir: str | None) -> str | None:
    """Return the absolute path of a local `data_dir`. None and URLs stay as they are."""
    if data_dir is None or "://" in data_dir:
        return data_dir
    return os.path.abspath(os.path.expanduser(data_dir))


def is_on_this_machine(name: str, data_dir: str | None = None) -> bool:
    """Return whether `open_sources` would download nothing.

    Args:
      name, data_dir: see `open_sources`.

    Raises:
      UserError: if the name is unknown.
    """
    return name == "digits" or name.startswith(tuple(LOCAL_DATASETS)) or is_prepared(name, data_dir)


def open_local_sources(name: str, data_dir: str | None = None) -> Mapping[str, Source]:
    """Do what `open_sources` does, but download nothing.

    Raises:
      UserError: as `open_sources` does, or if the dataset would have to be downloaded.
    """
    if not is_on_this_machine(name, data_dir):
        raise UserError(f"dataset {name!r} has not been downloaded. Train once to download and prepare it.")
    return open_sources(name, data_dir)


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


# --- Checks ----------------------------------------------------------------------------------------------------------


def check_sources(sources: Mapping[str, Source]) -> None:
    """Check that a dataset consists of sources, as far as this is known without reading examples.

    Raises:
      UserError: if it does not.
    """
    if not (isinstance(sources, Mapping) and sources and all(isinstance(split, str) for split in sources)):
        raise UserError(
            f"the sources ({_kind(sources)}) must be a dict of splits by name. Pass, for example, {{'train': source}}."
        )
    for split, source in sources.items():
        missing = [member for member in ("classes", "__len__", "__getitem__") if not hasattr(source, member)]
        if missing:
            raise UserError(
                f"the split {split!r} ({_kind(source)}) is not a source: it has no {' and no '.join(missing)}. "
                "For arrays, use resnet_jax.data.sources.ArraySource."
            )
        class_names(source.classes)
        channels = getattr(source, "channels", 3)
        if channels not in (1, 3):
            raise UserError(f"the channels of a source ({channels}) must be 3 for color or 1 for grayscale images.")
        labels = getattr(source, "labels", None)
        if labels is not None:
            _check_labels(np.asarray(labels), len(source))


def as_example(example: object, name: str) -> tuple[np.ndarray | bytes, int]:
    """Return an example of a source, with its image as a NumPy array or bytes, and its label as an int.

    Args:
      example: what `source[i]` returned.
      name: the name of the example, for messages.

    Raises:
      UserError: if it is not an example as `Source` describes it.
    """
    if not isinstance(example, tuple | list) or len(example) != 2:
        raise UserError(f"{name} is not an example ({_kind(example)}). {EXAMPLE}")
    image, label = example
    if hasattr(image, "__array__"):
        image = np.asarray(image)
    is_array = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size > 0
    if not isinstance(image, bytes) and not (is_array and image.shape[2:] in ((1,), (3,))):
        raise UserError(f"{name} has an image of the wrong kind ({_kind(image)}). {EXAMPLE}")
    number = np.asarray(label)
    if number.size != 1 or number.dtype.kind not in NUMBERS or number.item() % 1:
        raise UserError(f"{name} has a label of the wrong kind ({_kind(label)}). {EXAMPLE}")
    return image, int(number.item())


def class_names(classes: object) -> tuple[str, ...]:
    """Return the names of classes as strings.

    Raises:
      UserError: if they are not a list or another ordered collection, or if there are none.

    Example:
      >>> class_names(range(3))
      ('0', '1', '2')
    """
    names: tuple[str, ...] = ()
    if isinstance(classes, Iterable) and not isinstance(classes, Mapping | Set):
        names = tuple(map(str, classes))
    if not names:
        raise UserError(
            f"the classes of a source ({_kind(classes)}) must be a list of names. Give the name of each class, in the "
            "order of the labels."
        )
    return names


def _check_labels(labels: np.ndarray, num_examples: int) -> None:
    if labels.shape != (num_examples,) or labels.dtype.kind not in NUMBERS or np.any(labels % 1):
        raise UserError(
            f"the labels of a source ({_kind(labels)}) must be integers [{num_examples}], the index of the class of "
            "each example. Convert one-hot labels with argmax(axis=-1)."
        )


def _kind(value: object) -> str:
    """Describe a value of the wrong kind: dtype and shape of an array, otherwise the type.

    Example:
      >>> _kind(np.zeros((2, 3))), _kind("cat")
      ('float64 [2, 3]', 'str')
    """
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__
