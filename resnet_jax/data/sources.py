"""Where examples come from: scikit-learn's digits, TensorFlow Datasets, or a source of one's own.

A data set is a mapping from split names to sources, such as `{"train": ..., "test": ...}`. To train on your own data,
write a class with the three members of `Source` and hand two of them to `resnet_jax.train`.
"""

import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from resnet_jax.data import splits
from resnet_jax.errors import UserError, first_line, unknown_name

# Offered when a name is misspelt, even where TFDS is not installed.
COMMON_NAMES = ("digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn_cropped", "imagenet2012")

PORTS = {"http": 80, "https": 443, "ftp": 21}


class Source(Protocol):
    """Examples by index: `len(source)`, `source[i]`, and the names of the classes.

    An example is `(image, label)`: uint8 [height, width, channels] with 1 or 3 channels, and an int in
    [0, len(classes)). A source may also have `__getitems__(indices)`, for a list of examples, if that is faster.
    """

    classes: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]: ...


class ArraySource:
    """Examples in memory: uint8 images [n, height, width, channels] and integer labels [n]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]):
        self.images, self.labels, self.classes = images, labels, tuple(classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])


class TfdsSource:
    """One split of a prepared TFDS set, read from array_record files at random access, without TensorFlow."""

    def __init__(self, builder, split: str):
        self._examples = builder.as_data_source(split=split)
        self._image_key, self._label_key = builder.info.supervised_keys
        self.classes = tuple(builder.info.features[self._label_key].names)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self._pair(self._examples[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        return [self._pair(example) for example in self._examples.__getitems__(indices)]

    def _pair(self, example: Mapping[str, object]) -> tuple[np.ndarray, int]:
        return example[self._image_key], int(example[self._label_key])


def open_dataset(name: str, data_dir: str | None = None) -> dict[str, Source]:
    """The splits of the data set `name`, downloaded and prepared on first use.

    Raises:
      UserError: for an unknown name, a set that is not for image classification, or one that is neither prepared nor
        can be downloaded; it then says what to download and where to put it.
    """
    return _digits() if name == "digits" else _tfds(name, data_dir)


def _digits() -> dict[str, Source]:
    """scikit-learn's handwritten digits: 1,797 pictures of 8x8 pixels, a fifth of each class as test split."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # The pixels are counts from 0 to 16.
    images = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    train, test = splits.hold_out(labels, fraction=0.2)
    classes = [str(digit) for digit in range(10)]
    return {"train": ArraySource(images[train], labels[train], classes),
            "test": ArraySource(images[test], labels[test], classes)}  # fmt: skip


def _tfds(name: str, data_dir: str | None) -> dict[str, Source]:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except (ValueError, AssertionError) as error:  # TFDS's ways to refuse a name, a config or a version.
        if "File format is already set" in str(error):
            raise UserError(
                f"data set {name!r} has been prepared as tfrecord, which cannot be read at random: have it prepared "
                "anew elsewhere, with --config.dataset.data_dir=SOME/OTHER/FOLDER"
            ) from None
        known = {*COMMON_NAMES, *tfds.list_builders(with_community_datasets=False)}
        raise unknown_name("data set", name, known) from None
    pair = [builder.info.features[key] for key in builder.info.supervised_keys or ()]
    if [type(feature) for feature in pair] != [tfds.features.Image, tfds.features.ClassLabel]:
        raise UserError(f"data set {name!r} is not for image classification: TFDS lists no (image, class label) pair")
    if None in pair[0].shape:
        raise UserError(f"the pictures of data set {name!r} differ in size: only sets of one size can be trained on")
    if not builder.is_prepared():
        _prepare(builder)
    return {split: TfdsSource(builder, split) for split in builder.info.splits}


def _prepare(builder) -> None:
    """Downloads and prepares a TFDS set, with TFDS's own progress bars."""
    root = os.fspath(builder.data_dir_root)
    manual = os.path.join(root, "downloads", "manual")
    wanted = {url: info.filename for url, info in builder.url_infos.items()}
    missing = {url for url, filename in wanted.items() if not os.path.exists(os.path.join(manual, filename))}
    if wanted:
        advice = f"download {' and '.join(sorted(missing or wanted))}, still packed, into the folder {manual}"
    else:
        advice = f"https://www.tensorflow.org/datasets/catalog/{builder.name} says what to put into the folder {manual}"
    unreachable = _unreachable_host(missing)
    if unreachable:
        raise UserError(
            f"data set {builder.name!r} is not in {root}, and {unreachable} cannot be reached to download it: {advice}"
        )
    try:
        import tensorflow  # noqa: F401  TFDS needs it to prepare a set, and fails late and obscurely without it.
    except ImportError:
        raise UserError(
            f"data set {builder.name!r} is not in {root}, and preparing it needs TensorFlow: pip install tensorflow-cpu"
        ) from None
    try:
        builder.download_and_prepare()
    except Exception as error:
        # TFDS wraps network, checksum, disk and extraction errors in many types; the user needs the cause and a way on.
        raise UserError(
            f"data set {builder.name!r} could not be prepared in {root} ({first_line(error)}): {advice}"
        ) from error


def _unreachable_host(urls: set[str]) -> str | None:
    """The first host of `urls` that cannot be reached; asked at once, where TFDS would retry for minutes."""
    if urllib.request.getproxies():
        return None  # Only the proxy can tell.
    addresses = {urllib.parse.urlsplit(url) for url in urls}
    for host, port in sorted({(address.hostname, PORTS.get(address.scheme, 443)) for address in addresses}):
        try:
            socket.create_connection((host, port), timeout=10).close()
        except OSError:
            return host
    return None
