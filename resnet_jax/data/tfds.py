"""TensorFlow Datasets: any set for image classification, read from prepared files without TensorFlow."""

import functools
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from resnet_jax.errors import UserError, first_line, program, unknown_name

# Offered when a name is misspelt, even where TFDS is not installed.
COMMON_NAMES = ("cifar10", "cifar100", "mnist", "fashion_mnist", "svhn_cropped", "imagenet2012")

PORTS = {"http": 80, "https": 443, "ftp": 21}


class TfdsSource:
    """One split of a prepared set, in array_record files at random access; its pictures are left encoded.

    Attributes:
      classes: the names of the classes.
      channels: of the pictures, 1 or 3.
    """

    def __init__(self, builder, split: str):
        import tensorflow_datasets as tfds

        self._image_key, self._label_key = builder.info.supervised_keys
        # Our own decoding names what is wrong with a picture, and can leave out what a crop does not show.
        encoded = {self._image_key: tfds.decode.SkipDecoding()}
        self._examples = builder.as_data_source(split=split, decoders=encoded)
        self.classes = tuple(builder.info.features[self._label_key].names)
        self.channels = builder.info.features[self._image_key].shape[-1]
        self._files, self._name = builder.info.splits[split].filepaths, f"{builder.info.full_name} {split}"

    def __len__(self) -> int:
        return len(self._examples)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Another one where the set, its version or its files are others."""
        files = [(path, path.stat()) for path in map(epath.Path, self._files)]
        return " ".join([self._name, *(f"{path} {stat.length} {stat.mtime}" for path, stat in files)])

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return self._pair(self._examples[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        return [self._pair(example) for example in self._examples.__getitems__(indices)]

    def _pair(self, example: Mapping[str, object]) -> tuple[bytes, int]:
        return example[self._image_key], int(example[self._label_key])


def open_tfds(name: str, data_dir: str | None) -> dict[str, TfdsSource]:
    """The splits of a TFDS set, downloaded and prepared on first use.

    Raises:
      UserError: for an unknown name, a set that is not for image classification, or one that is neither prepared nor
        can be downloaded; it then says what to download and where to put it.
    """
    builder = _builder(name, data_dir)
    if not builder.is_prepared():
        _prepare(builder)
    return {split: TfdsSource(builder, split) for split in builder.info.splits}


def is_prepared(name: str, data_dir: str | None) -> bool:
    """Whether a TFDS set is there, so that `open_tfds` has nothing to download. Raises `UserError` as that does."""
    return _builder(name, data_dir).is_prepared()


def describe_tfds(name: str, data_dir: str | None) -> tuple[tuple[int | None, int | None, int], tuple[str, ...]]:
    """What is known of a TFDS set that has not been prepared: its pictures' height, width and channels, and classes.

    Height and width are None where pictures differ in size. Raises `UserError` as `open_tfds` does.
    """
    info = _builder(name, data_dir).info
    image, label = (info.features[key] for key in info.supervised_keys)
    return image.shape, tuple(label.names)


def _builder(name: str, data_dir: str | None):
    """What TFDS has for a name, if it is for image classification."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except (ValueError, AssertionError) as error:  # TFDS's ways to refuse a name, a config or a version.
        if "File format is already set" in str(error):
            place = f" --data_dir={data_dir}" if data_dir else ""
            raise UserError(
                f"data set {name!r} has been prepared as tfrecord, which cannot be read at random: convert it with "
                f"{program()} convert --dataset={name}{place} --to=SOME/OTHER/FOLDER, and train with "
                "--config.dataset.data_dir=SOME/OTHER/FOLDER"
            ) from None
        known = {"digits", *COMMON_NAMES, *tfds.list_builders(with_community_datasets=False)}
        raise unknown_name("data set", name, known) from None
    pair = [builder.info.features[key] for key in builder.info.supervised_keys or ()]
    if [type(feature) for feature in pair] != [tfds.features.Image, tfds.features.ClassLabel]:
        raise UserError(f"data set {name!r} is not for image classification: TFDS lists no (image, class label) pair")
    if pair[0].np_dtype != np.uint8 or pair[0].shape[-1] not in (1, 3):
        raise UserError(f"data set {name!r} has pictures of another kind than 8 bits in 1 or 3 channels")
    return builder


def _prepare(builder) -> None:
    """Downloads and prepares a TFDS set, with TFDS's own progress bars."""
    root = os.fspath(builder.data_dir_root)
    manual = epath.Path(root) / "downloads" / "manual"
    wanted = {url: info.filename for url, info in builder.url_infos.items() if info.filename}
    missing = {url for url, filename in wanted.items() if not (manual / filename).exists()}
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:  # Of sets that only those who have registered somewhere may have.
        advice = f"{' '.join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())} Here manual_dir is {manual}"
    elif wanted:
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
