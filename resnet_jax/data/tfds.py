"""TensorFlow Datasets (TFDS): image classification datasets, read from prepared files without TensorFlow."""

import contextlib
import functools
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import filelock
import numpy as np
from etils import epath

from resnet_jax import files
from resnet_jax.data.folder import PREFIX
from resnet_jax.errors import UserError, first_line, missing_extra, needs_extra, program, unknown_name

# Suggested for misspelled names, in addition to the names that TFDS lists.
COMMON_NAMES = ("cifar10", "cifar100", "mnist", "fashion_mnist", "svhn_cropped", "imagenet2012")

PORTS = {"http": 80, "https": 443, "ftp": 21}


class TfdsSource:
    """A split of a prepared dataset, with random access to its array_record files; images stay encoded.

    Attributes:
      classes: the names of the classes.
      channels: channels of the images, 1 or 3.
    """

    def __init__(self, builder, split: str):
        import tensorflow_datasets as tfds

        self._image_key, self._label_key = builder.info.supervised_keys
        # Our own decoding gives the reason if an image is damaged, and can skip what a crop does not show.
        encoded = {self._image_key: tfds.decode.SkipDecoding()}
        self._examples = builder.as_data_source(split=split, decoders=encoded)
        self.classes = tuple(builder.info.features[self._label_key].names)
        self.channels = builder.info.features[self._image_key].shape[-1]
        self._files, self._name = builder.info.splits[split].filepaths, f"{builder.info.full_name} {split}"

    def __len__(self) -> int:
        return len(self._examples)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Text that changes with the dataset, its version and its files."""
        files = [(path, path.stat()) for path in map(epath.Path, self._files)]
        return " ".join([self._name, *(f"{path} {stat.length} {stat.mtime}" for path, stat in files)])

    @functools.cached_property
    def content_digest(self) -> str:
        """The version of the dataset, with the names and sizes of its files."""
        files = map(epath.Path, self._files)
        return " ".join([self._name, *(f"{path.name} {path.stat().length}" for path in files)])

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return self._image_and_label(self._examples[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        return [self._image_and_label(example) for example in self._examples.__getitems__(indices)]

    def _image_and_label(self, example: Mapping[str, Any]) -> tuple[bytes, int]:
        return example[self._image_key], int(example[self._label_key])


def open_tfds(name: str, data_dir: str | None) -> dict[str, TfdsSource]:
    """Return the base splits of a TFDS dataset; download and prepare it on first use.

    Raises:
      UserError: if the name is unknown, if the dataset is not for image classification, or if it is not prepared
        and cannot be downloaded. The message then says what to download and where to put it.
    """
    builder = _builder(name, data_dir)
    if not builder.is_prepared():
        root = os.fspath(builder.data_dir_root)
        with contextlib.ExitStack() as stack:
            if "://" not in root:  # Another process of the run may be preparing the dataset.
                stack.enter_context(_preparing(root))
            builder = _builder(name, data_dir)
            if not builder.is_prepared():
                _prepare(builder)
    return {split: TfdsSource(builder, split) for split in builder.info.splits}


@contextlib.contextmanager
def _preparing(root: str) -> Iterator[None]:
    """Wait until no other process prepares a dataset in this directory."""
    try:
        os.makedirs(root, exist_ok=True)
        lock = filelock.FileLock(os.path.join(root, ".preparing.lock"))
        lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write to {root} ({error.strerror}). Choose another dataset.data_dir.") from None
    try:
        yield
    finally:
        lock.release()


def is_prepared(name: str, data_dir: str | None) -> bool:
    """Return whether the dataset has been prepared, so that `open_tfds` would download nothing.

    Raises:
      UserError: if the name is unknown, or if the dataset is not for image classification.
    """
    return _builder(name, data_dir).is_prepared()


def describe_tfds(name: str, data_dir: str | None) -> tuple[tuple[int | None, int | None, int], tuple[str, ...]]:
    """Return the metadata of a TFDS dataset, which need not be prepared.

    Returns:
      (height, width, channels) of the images, with None for height and width if images differ in size; and the names of
      the classes.

    Raises:
      UserError: as `is_prepared` does.
    """
    info = _builder(name, data_dir).info
    image, label = (info.features[key] for key in info.supervised_keys)
    return image.shape, tuple(label.names)


def _builder(name: str, data_dir: str | None):
    """Return the TFDS builder of an image classification dataset; raises `UserError` as `is_prepared` does."""
    if name.startswith(("/", ".", "~")):
        raise _folder_without_prefix(name, name)
    with needs_extra(f"dataset {name!r}", "tensorflow-datasets", "tfds"):
        import tensorflow_datasets as tfds

    check_data_dir(data_dir)
    expanded = None if data_dir is None else os.path.expanduser(data_dir)  # TFDS takes "~" literally.
    try:
        builder = tfds.builder(name, data_dir=expanded, file_format="array_record")
    except (ValueError, AssertionError) as error:  # TFDS raises these for unknown names, configs and versions.
        if "File format is already set" in str(error):
            data_dir_flag = f" --data_dir={data_dir}" if data_dir else ""
            raise UserError(
                f"dataset {name!r} is prepared as tfrecord, which does not allow random access. Convert it with "
                f"`{program()} convert --dataset={name}{data_dir_flag} --to=OTHER/FOLDER`, and train with "
                "--config.dataset.data_dir=OTHER/FOLDER."
            ) from None
        path = name.rpartition(":")[2]
        if os.path.isdir(path):
            raise _folder_without_prefix(name, path) from None
        known = {"digits", *COMMON_NAMES, *tfds.list_builders(with_community_datasets=False)}
        raise unknown_name("dataset", name, known) from None
    pair = [builder.info.features[key] for key in builder.info.supervised_keys or ()]
    if [type(feature) for feature in pair] != [tfds.features.Image, tfds.features.ClassLabel]:
        raise UserError(
            f"dataset {name!r} is not for image classification: TFDS lists no (image, class label) pair. "
            "Choose another dataset."
        )
    if pair[0].np_dtype != np.uint8 or pair[0].shape[-1] not in (1, 3):
        raise UserError(
            f"dataset {name!r} does not have images with 8 bits in 1 or 3 channels. Choose another dataset."
        )
    return builder


def check_data_dir(data_dir: str | None) -> None:
    """Check that TFDS opens this directory, which it may take for a pattern; None: $TFDS_DATA_DIR.

    Raises:
      UserError: if the path is empty, which TFDS would take for the current directory; or as `check_characters` does.
    """
    path = os.environ.get("TFDS_DATA_DIR") if data_dir is None else data_dir
    if path == "":
        raise UserError("the path of the TFDS datasets is empty. Set dataset.data_dir or TFDS_DATA_DIR.")
    files.check_characters(path or "", "TFDS datasets", misread="*?[")


def _folder_without_prefix(name: str, path: str) -> UserError:
    return UserError(f"unknown dataset {name!r}. To use a folder of images, write {PREFIX}{path}.")


def _prepare(builder) -> None:
    """Download and prepare a TFDS dataset, with TFDS's own progress bars."""
    root = os.fspath(builder.data_dir_root)
    elsewhere = _prepared_nearby(builder)
    if elsewhere:
        raise UserError(
            f"dataset {builder.name!r} is not in {root}, but in {elsewhere}. Set TFDS_DATA_DIR or dataset.data_dir to "
            f"{elsewhere}."
        )
    manual = epath.Path(root) / "downloads" / "manual"
    filenames = {url: info.filename for url, info in builder.url_infos.items() if info.filename}
    missing = {url for url, filename in filenames.items() if not (manual / filename).exists()}
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:  # For datasets that require registration.
        advice = f"{' '.join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())} Here manual_dir is {manual}."
    elif filenames:
        advice = f"Download {' and '.join(sorted(missing or filenames))} to {manual}, without unpacking."
    else:
        advice = f"https://www.tensorflow.org/datasets/catalog/{builder.name} describes what to put into {manual}."
    unreachable = _unreachable_host(missing)
    if unreachable:
        raise UserError(
            f"dataset {builder.name!r} is not in {root}, and its download host ({unreachable}) cannot be reached. "
            f"{advice}"
        )
    try:
        import tensorflow  # noqa: F401  TFDS needs it to prepare a dataset, and fails late and obscurely without it.
    except ImportError:
        feature = f"Dataset {builder.name!r} is not in {root}. Preparing it"
        raise missing_extra(feature, "TensorFlow", "tfds") from None
    try:
        builder.download_and_prepare()
    except Exception as error:
        # TFDS raises network, checksum, disk and extraction errors of many types. Users need the cause and a remedy.
        raise UserError(
            f"dataset {builder.name!r} could not be prepared in {root} ({first_line(error)}). {advice}"
        ) from error


def _prepared_nearby(builder) -> epath.Path | None:
    """Return the directory one or two levels above the builder's, or one below, in which its dataset is prepared."""
    root = epath.Path(builder.data_dir_root)
    nearby = [*list(root.parents)[:2], *(root.iterdir() if root.is_dir() else ())]
    version = os.path.relpath(builder.data_dir, root)  # such as cifar10/3.0.2
    return next((path for path in nearby if (path / version / "dataset_info.json").exists()), None)


def _unreachable_host(urls: set[str]) -> str | None:
    """Return the first host of `urls` that cannot be reached. TFDS would retry for minutes before it gives up."""
    if urllib.request.getproxies():
        return None  # Only the proxy knows which hosts can be reached.
    addresses = {urllib.parse.urlsplit(url) for url in urls}
    for host, port in sorted({(address.hostname, PORTS.get(address.scheme, 443)) for address in addresses}):
        try:
            socket.create_connection((host, port), timeout=10).close()
        except OSError:
            return host
    return None
