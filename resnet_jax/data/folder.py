"""A folder of images as a dataset, `folder:/path`, with one directory per class.

Two layouts are supported. With `/path/train/CLASS/...`, and optionally the same below `val` and `test`, each of these
directories becomes a split of that name. With `/path/CLASS/...`, all images form the split `train`, which can be
divided as in `train[:80%]`. Splits are also found under the names and in the nested directories that archives on the
web have, such as `data/data/Training/Training/CLASS`.
"""

import collections
import functools
import hashlib
import logging
import math
import os
from collections.abc import Collection, Iterator, Sequence
from typing import NoReturn

import numpy as np

from resnet_jax.data.decode import is_image_name, read_file
from resnet_jax.errors import UserError, program
from resnet_jax.terminal import printable

GOLDEN_RATIO = (5**0.5 - 1) / 2  # Modulo 1, its multiples are spread evenly over [0, 1).
PREFIX = "folder:"
SIZES_HASHED = 10_000  # A network file system may take a millisecond for each.
SPLITS = {  # by the names of their directories, in lower case
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "valid",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
# Directories with trash, thumbnails and metadata, in lower case. Those that start with a dot are left out as well.
SYSTEM_DIRECTORIES = frozenset(
    [
        *("__macosx", "network trash folder", "temporary items"),  # macOS
        *("$recycle.bin", "recycler", "system volume information"),  # Windows
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", ".@__thumb"),  # Synology, QNAP
        *("lost+found", "lost.dir"),  # Linux, Android
        "__pycache__",
    ]
)
MAX_NESTING = 3  # directories around those of the splits
MAX_NAMES_LISTED = 5

logger = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------------------------------
# Datasets
# ---------------------------------------------------------------------------------------------------------------------


class ImageFiles:
    """Image files with their labels, as a source of examples.

    Args:
      root: the directory to which the paths are relative.
      files: n paths.
      labels: n labels.

    Attributes:
      labels: int32 [n].
    """

    channels = 3

    def __init__(self, root: str, files: Sequence[str], labels: Sequence[int]):
        self._root, self._files = root, files
        self.labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        """Return the bytes of an image file and its label; raises `Unreadable` if the file cannot be opened."""
        return read_file(self.name(index)), int(self.labels[index])

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self._root, self._files[index])

    def _hash_sizes(self, digest) -> None:
        """Add the sizes of up to `SIZES_HASHED` evenly spaced files to a hash of hashlib."""
        for index in range(0, len(self), math.ceil(len(self) / SIZES_HASHED)):
            digest.update(f" {file_size(self.name(index))}".encode())


class FolderSource(ImageFiles):
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
        first split, also the paths of all files outside the directories of the splits.
    """

    def __init__(self, root: str, classes: Sequence[str]):
        self.classes = tuple(map(_decode_name, classes))
        images, self.ignored = find_images(root)
        super().__init__(root, *interleave([images.get(name, []) for name in classes]))

    @functools.cached_property
    def content_digest(self) -> str:
        """Hash of the names of all images, with their classes, and of the sizes of up to `SIZES_HASHED` of them."""
        digest = hashlib.sha256(os.fsencode("\n".join(self._files)))
        self._hash_sizes(digest)
        return digest.hexdigest()


def canonical_path(path: str) -> str:
    """Return an absolute path; raises `UserError` if the path is a URL."""
    if "://" in path:
        raise UserError(f"{path} is not a path on this machine. Copy the data to a local disk and use its path there.")
    return os.path.abspath(os.path.expanduser(path))


def open_folder(name: str, moved_to: str | None = None) -> dict[str, FolderSource]:
    """Return the splits of the dataset `folder:/path`.

    Args:
      name: the name of the dataset.
      moved_to: the new path of the folder, if it has been moved.

    Raises:
      UserError: if the path is not a directory, or the folder has no classes or images; the message describes the
        expected layout.
    """
    root = canonical_path(moved_to or name.removeprefix(PREFIX))
    layout = f"Put images into {root}/train/CLASS/IMAGE.jpg and {root}/val/CLASS/IMAGE.jpg."
    if not os.path.isdir(root):
        raise UserError(f"there is no folder {root}. {layout}")
    splits = find_splits(root) or {"train": root}
    classes = sorted({name for directory in splits.values() for name in list_directories(directory)})
    sources = {split: FolderSource(directory, classes) for split, directory in splits.items()}
    for split, source in sources.items():
        if not len(source):
            raise UserError(f"the folder {splits[split]} has no images in class directories. {layout}")
    if root in splits.values():
        train = sources["train"]
        check_classes(root, [os.path.relpath(train.name(index), root) for index in range(len(train))])
    else:
        beside = iter_files(root, without=splits.values())
        next(iter(sources.values())).ignored += [os.path.join(root, file) for file in beside]
    ignored = [path for source in sources.values() for path in source.ignored]
    if ignored:
        logger.info(
            f"Ignored files that, by name or location, are not images of a class: {count_files(ignored)}. "
            f"`{program()} inspect` lists them."
        )
    return sources


def count_files(paths: Sequence[str]) -> str:
    """Count files, and name the most frequent extensions.

    Example:
      >>> count_files(["a.heic", "b.HEIC", "c.txt", "README", ".DS_Store"])
      '5 (2 .heic, 1 .txt, 1 without extension, 1 hidden)'
    """
    kinds: collections.Counter[str] = collections.Counter()
    for path in paths:
        name = os.path.basename(path)
        kinds["hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() or "without extension"] += 1
    listed = [f"{count:,} {printable(kind)}" for kind, count in kinds.most_common(MAX_NAMES_LISTED)]
    more = ["..."] if len(kinds) > MAX_NAMES_LISTED else []
    return f"{len(paths):,} ({', '.join([*listed, *more])})"


def iter_files(root: str, without: Collection[str] = ()) -> Iterator[str]:
    """Iterate over the paths, relative to `root`, of all files that are not in hidden or system directories.

    Files of a directory come in sorted order. Links are followed. Raises `UserError` if a directory cannot be read.

    Args:
      root: the directory.
      without: paths of further directories to leave out.
    """
    # For each directory: its real path and those of the directories above it.
    ancestors: dict[str, tuple[str, ...]] = {os.path.dirname(root): ()}
    for directory, subdirectories, files in os.walk(root, onerror=_raise_user_error, followlinks=True):
        above, real_path = ancestors[os.path.dirname(directory)], os.path.realpath(directory)
        if real_path in above:  # Following a link to a directory above would never end.
            subdirectories.clear()
            continue
        ancestors[directory] = (*above, real_path)
        visible = [name for name in subdirectories if _is_visible(name)]
        subdirectories[:] = sorted(name for name in visible if os.path.join(directory, name) not in without)
        relative = os.path.relpath(directory, root)
        yield from (os.path.normpath(os.path.join(relative, file)) for file in sorted(files))


def _is_visible(directory: str) -> bool:
    """Return whether a directory of this name holds a user's files."""
    return not directory.startswith(".") and directory.lower() not in SYSTEM_DIRECTORIES


def find_splits(root: str, max_nesting: int = MAX_NESTING) -> dict[str, str]:
    """Return the directories of the splits; empty if there are none.

    They are directories in `root` or, as in some archives, in the only directory in `root`, and so on. Raises
    `UserError` if a split has two directories.
    """
    directories = list_directories(root)
    found: dict[str, str] = {}
    for name in directories:
        split = SPLITS.get(name.lower())
        if split in found:
            raise UserError(f"{root} has two directories for the split {split!r}. Remove or rename {name}.")
        if split:
            found[split] = _innermost(os.path.join(root, name))
    if not found and len(directories) == 1 and max_nesting:
        return find_splits(os.path.join(root, directories[0]), max_nesting - 1)
    return {split: found[split] for split in SPLITS.values() if split in found}


def _innermost(path: str) -> str:
    """Return the directory of classes for `path`, which may be nested in directories of its own name."""
    name = os.path.basename(path)
    inner = os.path.join(path, name)
    is_nested = list_directories(path) == [name] and list_directories(inner)
    return _innermost(inner) if is_nested else path


def check_classes(root: str, files: Sequence[str]) -> None:
    """Raise `UserError` if directories look like splits or groups of images rather than classes.

    All images of such directories are in subdirectories, and these have the same names in several of them, or the names
    of splits.

    Args:
      root: the directory of the classes.
      files: the images in it, as relative paths.
    """
    subdirectories: dict[str, set[str]] = {}
    for file in files:
        name, *directories = os.path.dirname(file).split(os.sep)
        below = [directory for directory in directories if directory != name]
        subdirectories.setdefault(name, set()).add(below[0] if below else "")
    nested = {name: inner for name, inner in sorted(subdirectories.items()) if "" not in inner}
    occurrences = collections.Counter(inner for names in nested.values() for inner in names)
    shared = {inner for inner, count in occurrences.items() if count > 1}
    for name, inner in nested.items():
        if len(inner & shared) > 1 or len({SPLITS[part.lower()] for part in inner if part.lower() in SPLITS}) > 1:
            listed = ", ".join(sorted(inner)[:MAX_NAMES_LISTED])
            path = os.path.join(root, name)
            raise UserError(
                f"{path} does not look like a class, because of its directories ({listed}). If it is a split, name it "
                f"train, val or test. If it is the dataset, use folder:{path}. If it is a class, move all classes into "
                f"{os.path.join(root, 'train')}."
            )


def list_directories(path: str) -> list[str]:
    """Return the names of the directories in `path` that hold a user's files, sorted."""
    try:
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and _is_visible(entry.name))
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


def file_size(path: str) -> int | None:
    """Return the size of a file in bytes, or None if it cannot be read, as for a broken link."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def find_images(root: str) -> tuple[dict[str, list[str]], list[str]]:
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


def interleave(files: Sequence[Sequence[str]]) -> tuple[list[str], list[int]]:
    """Merge the files of all classes so that each class is spread evenly, and return files and labels."""
    placed = []
    for label, members in enumerate(files):
        # Without offsets, the files of classes of equal size would have equal positions.
        offset = (label + 1) * GOLDEN_RATIO % 1
        shuffled = sorted(members, key=lambda file: hashlib.sha256(os.fsencode(file)).digest())
        placed += [((index + offset) / len(shuffled), label, file) for index, file in enumerate(shuffled)]
    placed.sort()
    return [file for _, _, file in placed], [label for _, label, _ in placed]
