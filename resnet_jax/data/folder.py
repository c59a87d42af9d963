"""A folder of images as a dataset, `folder:/path`, with one directory per class; and images without labels.

Two layouts are supported. With `/path/train/CLASS/...`, and optionally the same below `val` and `test`, each of these
directories becomes a split of that name. With `/path/CLASS/...`, all images form the split `train`, which can be
divided as in `train[:80%]`.
"""

import functools
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import NoReturn

import numpy as np

from resnet_jax.data.decode import is_image_name, read_file
from resnet_jax.errors import UserError

GOLDEN_RATIO = (5**0.5 - 1) / 2  # Modulo 1, its multiples are spread evenly over [0, 1).
PREFIX = "folder:"
SIZES_HASHED = 10_000  # A network file system may take a millisecond for each.
SPLITS = ("train", "val", "valid", "validation", "test")


# ---------------------------------------------------------------------------------------------------------------------
# Datasets
# ---------------------------------------------------------------------------------------------------------------------


class FolderSource:
    """The image files of one split.

    The files are ordered so that every slice contains all classes in proportion: `train[:80%]` is stratified. The order
    depends on the file names alone and is the same on every machine.

    Args:
      root: the directory of the split.
      classes: the names of the class directories.

    Attributes:
      classes: the names of the class directories, sorted, over all splits.
      labels: int32 [n].
      ignored: paths of files that do not have the extension of an image, or lie outside the class directories. For the
        first split, also the paths of everything that lies next to the directories of the splits.
    """

    channels = 3

    def __init__(self, root: str, classes: Sequence[str]):
        self.classes = tuple(map(_decode_name, classes))
        self._root = root
        images, self.ignored = _find_images(root)
        self._files, labels = _interleave([images.get(name, []) for name in classes])
        self.labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        """Return the bytes of an image file and its label; raises `Unreadable` if the file cannot be opened."""
        return read_file(self.name(index)), int(self.labels[index])

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self._root, self._files[index])

    @functools.cached_property
    def content_digest(self) -> str:
        """Hash of the names of all images, with their classes, and of the sizes of up to `SIZES_HASHED` of them."""
        digest = hashlib.sha256(os.fsencode("\n".join(self._files)))
        for index in range(0, len(self), math.ceil(len(self) / SIZES_HASHED)):
            digest.update(f" {_size(self.name(index))}".encode())
        return digest.hexdigest()


def canonical_name(name: str) -> str:
    """Return the name of a dataset. A path in it is made absolute, so that the name is valid in any working directory.

    Raises:
      UserError: if the path is a URL.
    """
    if not name.startswith(PREFIX) or name == PREFIX:
        return name
    if "://" in name:
        raise UserError(f"{name} is not a folder on this machine. Copy it to a local disk and use its path there.")
    return PREFIX + os.path.abspath(os.path.expanduser(name.removeprefix(PREFIX)))


def open_folder(name: str, moved_to: str | None = None) -> dict[str, FolderSource]:
    """Return the splits of the dataset `folder:/path`.

    Args:
      name: the name of the dataset.
      moved_to: the new path of the folder, if it has been moved.

    Raises:
      UserError: if the path is not a directory, or the folder has no classes or images; the message describes the
        expected layout.
    """
    if name == PREFIX:
        raise UserError("no folder given. Use --config.dataset.name=folder:/path/to/images.")
    root = canonical_name(PREFIX + moved_to if moved_to else name).removeprefix(PREFIX)
    layout = f"Put images into {root}/train/CLASS/IMAGE.jpg and {root}/val/CLASS/IMAGE.jpg."
    if not os.path.isdir(root):
        raise UserError(f"there is no folder {root}. {layout}")
    splits = {split: os.path.join(root, split) for split in SPLITS if os.path.isdir(os.path.join(root, split))}
    splits = splits or {"train": root}
    classes = sorted({name for directory in splits.values() for name in _list_directories(directory)})
    sources = {split: FolderSource(directory, classes) for split, directory in splits.items()}
    for split, source in sources.items():
        if not len(source):
            raise UserError(f"the folder {splits[split]} has no images in class directories. {layout}")
    if root not in splits.values():
        next(iter(sources.values())).ignored += [entry.path for entry in os.scandir(root) if entry.name not in splits]
    return sources


def iter_files(root: str) -> Iterator[str]:
    """Iterate over the paths, relative to `root`, of all files that are not in hidden directories.

    Files of a directory come in sorted order. Links are followed. Raises `UserError` if a directory cannot be read.
    """
    # For each directory: its real path and those of the directories above it.
    ancestors: dict[str, tuple[str, ...]] = {os.path.dirname(root): ()}
    for directory, subdirectories, files in os.walk(root, onerror=_raise_user_error, followlinks=True):
        above, real_path = ancestors[os.path.dirname(directory)], os.path.realpath(directory)
        if real_path in above:  # Following a link to a directory above would never end.
            subdirectories.clear()
            continue
        ancestors[directory] = (*above, real_path)
        subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
        relative = os.path.relpath(directory, root)
        yield from (os.path.normpath(os.path.join(relative, file)) for file in sorted(files))


def _list_directories(path: str) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        _raise_user_error(error)


def _raise_user_error(error: OSError) -> NoReturn:
    raise UserError(f"the folder {error.filename} cannot be read ({error.strerror}). Check its permissions.")


def _decode_name(directory: str) -> str:
    """Return the name of a directory, decoded as UTF-8 whatever the locale is, unless it is not UTF-8."""
    try:
        return os.fsencode(directory).decode()
    except UnicodeDecodeError:
        return directory


def _size(path: str) -> int | None:
    """Return the size of a file in bytes, or None if it cannot be read, as for a broken link."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def _find_images(root: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return the images of each class, as paths relative to `root`, and the paths of all other files."""
    images: dict[str, list[str]] = {}
    ignored = []
    for file in iter_files(root):
        class_name, *path_in_class = file.split(os.sep)
        if path_in_class and is_image_name(path_in_class[-1]):
            images.setdefault(class_name, []).append(file)
        else:
            ignored.append(os.path.join(root, file))
    return images, ignored


def _interleave(files: Sequence[Sequence[str]]) -> tuple[list[str], list[int]]:
    """Merge the files of all classes so that each class is spread evenly, and return files and labels."""
    placed = []
    for label, members in enumerate(files):
        # Without offsets, the files of classes of equal size would have equal positions.
        offset = (label + 1) * GOLDEN_RATIO % 1
        shuffled = sorted(members, key=lambda file: hashlib.sha256(os.fsencode(file)).digest())
        placed += [((index + offset) / len(shuffled), label, file) for index, file in enumerate(shuffled)]
    placed.sort()
    return [file for _, _, file in placed], [label for _, label, _ in placed]


# ---------------------------------------------------------------------------------------------------------------------
# Images without labels
# ---------------------------------------------------------------------------------------------------------------------


class UnlabeledImages:
    """Images to predict, as a source of examples. Their labels have no meaning: all are 0.

    Args:
      images: n image files, each as its path or its bytes; or uint8 [n, height, width, channels].
      channels: 1 or 3, channels to which files are decoded.
    """

    classes = ("unknown",)

    def __init__(self, images: Sequence[str | os.PathLike | bytes] | np.ndarray, channels: int):
        self._images, self.channels = images, channels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[np.ndarray | bytes, int]:
        """Return an image and the label 0; raises `Unreadable` if a file cannot be opened."""
        image = self._images[index]
        return (read_file(image) if isinstance(image, str | os.PathLike) else image), 0

    def name(self, index: int) -> str:
        """Return the path of an image, or its number."""
        image = self._images[index]
        return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {index}"
