"""A folder of one's own pictures as a data set: `folder:/path`, with one directory a class.

Either `/path/train/CLASS/...` and, if you like, the same below `val` and `test`, each of which becomes a split of that
name; or `/path/CLASS/...`, all of which is the split `train`, to be parted as in `train[:80%]`.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np

from resnet_jax.data.decode import is_picture, read_file
from resnet_jax.errors import UserError

GOLDEN_RATIO = (5**0.5 - 1) / 2  # Its multiples are spread evenly over the circle.
PREFIX = "folder:"
SPLITS = ("train", "val", "valid", "validation", "test")


class FolderSource:
    """The picture files of one split.

    They come in an order in which every slice holds all classes in proportion, so that `train[:80%]` is stratified. The
    order depends on the files' names alone: it is the same on every machine.

    Attributes:
      classes: the names of the directories, sorted, over all splits.
      labels: int32 [n].
      ignored: paths of files that are no pictures by their extension, or lie outside the classes' directories; of the
        first split also what lies beside the splits.
    """

    channels = 3

    def __init__(self, root: str, classes: Sequence[str]):
        self.classes = tuple(classes)
        self._root = root
        found, self.ignored = _files(root)
        self._files, labels = _interleave([found.get(name, []) for name in self.classes])
        self.labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        """The bytes of a picture file and its label; raises `Unreadable` for a file that cannot be opened."""
        return read_file(self.name(index)), int(self.labels[index])

    def name(self, index: int) -> str:
        """The path of a picture."""
        return os.path.join(self._root, self._files[index])


def canonical_name(name: str) -> str:
    """`folder:/path` with an absolute path, so that it means the same from any directory; other names as they are."""
    if not name.startswith(PREFIX) or name == PREFIX:
        return name
    if "://" in name:
        raise UserError(f"{name} is no folder of this machine: copy it to a disk, and name it by its path there")
    return PREFIX + os.path.abspath(os.path.expanduser(name.removeprefix(PREFIX)))


def open_folder(name: str, moved_to: str | None = None) -> dict[str, FolderSource]:
    """The splits of the data set `folder:/path`, or of the same folder that lies in another place by now.

    Raises:
      UserError: for a path that is no directory, or a folder without classes or pictures; it says what should be there.
    """
    if name == PREFIX:
        raise UserError("name the folder of your pictures, with --config.dataset.name=folder:/path/to/pictures")
    root = canonical_name(PREFIX + moved_to if moved_to else name).removeprefix(PREFIX)
    layout = f"a data set of one's own is a folder with {root}/train/CLASS/PICTURE.jpg and {root}/val/CLASS/PICTURE.jpg"
    if not os.path.isdir(root):
        raise UserError(f"there is no folder {root}: {layout}")
    splits = {split: os.path.join(root, split) for split in SPLITS if os.path.isdir(os.path.join(root, split))}
    splits = splits or {"train": root}
    classes = sorted({name for directory in splits.values() for name in _directories(directory)})
    sources = {split: FolderSource(directory, classes) for split, directory in splits.items()}
    for split, source in sources.items():
        if not len(source):
            raise UserError(f"the folder {splits[split]} holds no pictures in directories of classes: {layout}")
    if root not in splits.values():
        next(iter(sources.values())).ignored += [entry.path for entry in os.scandir(root) if entry.name not in splits]
    return sources


def _directories(path: str) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> None:
    raise UserError(f"the folder {error.filename} cannot be read: {error.strerror}")


def walk(root: str) -> Iterator[str]:
    """The paths below `root` of all files but those in hidden directories; of each directory they come sorted.

    Links are followed. Raises `UserError` for a directory that cannot be read.
    """
    above = {os.path.dirname(root): ()}  # what a directory lies in, and it itself, without links
    for directory, below, files in os.walk(root, onerror=_refuse, followlinks=True):
        folders, here = above[os.path.dirname(directory)], os.path.realpath(directory)
        if here in folders:  # A link to a folder above would lead round in circles.
            below.clear()
            continue
        above[directory] = (*folders, here)
        below[:] = sorted(name for name in below if not name.startswith("."))
        relative = os.path.relpath(directory, root)
        yield from (os.path.normpath(os.path.join(relative, file)) for file in sorted(files))


def _files(root: str) -> tuple[dict[str, list[str]], list[str]]:
    """The pictures of each class, as paths below `root`, and the paths of all other files."""
    pictures: dict[str, list[str]] = {}
    ignored = []
    for file in walk(root):
        class_name, *below = file.split(os.sep)
        if below and is_picture(below[-1]):
            pictures.setdefault(class_name, []).append(file)
        else:
            ignored.append(os.path.join(root, file))
    return pictures, ignored


def _interleave(files: Sequence[Sequence[str]]) -> tuple[list[str], list[int]]:
    """Merges the files of all classes, each class spread evenly: (files, labels)."""
    placed = []
    for label, members in enumerate(files):
        start = (label + 1) * GOLDEN_RATIO % 1  # Or classes of equal size would have the same places.
        shuffled = sorted(members, key=lambda file: hashlib.sha256(file.encode(errors="surrogateescape")).digest())
        placed += [((place + start) / len(shuffled), label, file) for place, file in enumerate(shuffled)]
    placed.sort()
    return [file for _, _, file in placed], [label for _, label, _ in placed]


# --- Pictures that someone has, without labels: what a trained network is asked about.


class UnlabelledImages:
    """Pictures as a source of examples, whose labels mean nothing: all are 0.

    Args:
      pictures: n picture files, each its path or its bytes; or uint8 [n, height, width, channels].
      channels: 1 or 3, of what files are decoded to.
    """

    classes = ("unknown",)

    def __init__(self, pictures: Sequence[str | os.PathLike | bytes] | np.ndarray, channels: int):
        self._pictures, self.channels = pictures, channels

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[np.ndarray | bytes, int]:
        """Raises `Unreadable` for a file that cannot be opened."""
        picture = self._pictures[index]
        return read_file(picture) if isinstance(picture, str | os.PathLike) else picture, 0

    def name(self, index: int) -> str:
        """The path of a picture, or its number."""
        picture = self._pictures[index]
        return os.fspath(picture) if isinstance(picture, str | os.PathLike) else f"picture {index}"
