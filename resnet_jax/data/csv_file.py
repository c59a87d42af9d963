"""A CSV file that lists images with their labels, as a dataset: `csv:/path/labels.csv`.

The columns are `image` (a path, relative to the file), `label` or `labels`, and optionally `split`:

    image,labels,split
    a.jpg,beach|sea,train
    b.jpg,,val

With the column `label`, each image has one label. With the column `labels`, it has any number of them, separated by
`|`. Without the column `split`, all images form the split `train`.
"""

import collections
import csv
import functools
import hashlib
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from resnet_jax.data.decode import read_file
from resnet_jax.data.folder import SIZES_HASHED, canonical_path, file_size, interleave
from resnet_jax.errors import UserError

PREFIX = "csv:"
SEPARATOR = "|"
MAX_NAMES_LISTED = 5


class CsvSource:
    """The images of one split.

    The images are ordered so that every slice contains all labels in proportion; see `folder.interleave`.

    Args:
      root: the directory of the CSV file.
      images: the label of each image, by its path relative to `root`; see `labels`.
      classes: the names of the classes.
      label_sets: bool [sets, classes]; None if each image has one label.

    Attributes:
      classes: the names of the classes.
      labels: int32 [n]: the class of each image, or, with `label_sets`, the number of its row there.
      label_sets: bool [sets, classes]: the distinct combinations of labels that images have, for all splits.
    """

    channels = 3

    def __init__(
        self, root: str, images: Mapping[str, int], classes: Sequence[str], label_sets: np.ndarray | None = None
    ):
        self.classes = tuple(classes)
        self.label_sets = label_sets
        self._root = root
        members: dict[int, list[str]] = {}
        for file, label in images.items():
            members.setdefault(label, []).append(file)
        numbers = sorted(members)
        self._files, order = interleave([members[number] for number in numbers])
        self.labels = np.array([numbers[index] for index in order], np.int32)

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
        """Hash of the names of all images, their combinations of labels, and the sizes of up to `SIZES_HASHED` of them.

        It does not include `labels`, which are compared separately; see `Source`.
        """
        digest = hashlib.sha256(os.fsencode("\n".join([*self._files, *self.classes])))
        if self.label_sets is not None:
            digest.update(np.packbits(self.label_sets).tobytes())
        for index in range(0, len(self), math.ceil(len(self) / SIZES_HASHED)):
            digest.update(f" {file_size(self.name(index))}".encode())
        return digest.hexdigest()


def open_csv(name: str, moved_to: str | None = None) -> dict[str, CsvSource]:
    """Return the splits of the dataset `csv:/path/labels.csv`.

    Args:
      name: the name of the dataset.
      moved_to: the new path of the file, if it has been moved.

    Raises:
      UserError: if the file cannot be read, lacks a column, or lists no image, an image twice, or one that is missing.
    """
    path = canonical_path(moved_to or name.removeprefix(PREFIX))
    rows = _read_rows(path)
    root = os.path.dirname(path)
    _check_images(path, root, rows)
    has_sets = "labels" in rows[0]
    labels = [_split_labels(row["labels"]) if has_sets else (row["label"].strip(),) for row in rows]
    unlabeled = [row["image"] for row, names in zip(rows, labels, strict=True) if not has_sets and not names[0]]
    if unlabeled:
        raise UserError(f"{path} has images without a label ({_enumerate(unlabeled)}). Add their labels.")
    classes = sorted({name for names in labels for name in names})
    if not classes:
        raise UserError(f"{path} has no labels. Fill in the column labels.")
    numbers = {name: number for number, name in enumerate(classes)}
    combinations = {combination: number for number, combination in enumerate(dict.fromkeys(labels))}
    label_sets = None
    if has_sets:
        label_sets = np.zeros((len(combinations), len(classes)), bool)
        for combination, number in combinations.items():
            label_sets[number, [numbers[name] for name in combination]] = True
    members: dict[str, dict[str, int]] = {}  # the label of each image, by split
    for row, names in zip(rows, labels, strict=True):
        split = row.get("split", "").strip() or "train"
        members.setdefault(split, {})[row["image"]] = combinations[names] if has_sets else numbers[names[0]]
    return {split: CsvSource(root, images, classes, label_sets) for split, images in members.items()}


def _read_rows(path: str) -> list[dict[str, str]]:
    """Return the rows of the file by column, at least one."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            numbered = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"the file {path} cannot be read ({error.strerror}). Check --config.dataset.name.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({error}). Save it as UTF-8.") from None
    if "image" not in columns or ("label" in columns) == ("labels" in columns):
        raise UserError(
            f"{path} needs a column image, and either label or labels (it has {', '.join(columns) or 'none'}). Rename "
            "its columns."
        )
    rows = [row for _, row in numbered]
    if not rows:
        raise UserError(f"{path} lists no images. Add a row for each image.")
    incomplete = [str(number) for number, row in numbered if None in row or None in row.values()]
    if incomplete:
        raise UserError(f"{path} has rows with too many or too few values (lines {_enumerate(incomplete)}). Fix them.")
    return rows


def _check_images(path: str, root: str, rows: Sequence[Mapping[str, str]]) -> None:
    images = [os.path.normpath(row["image"]) for row in rows]
    repeated = [image for image, count in collections.Counter(images).items() if count > 1]
    if repeated:
        raise UserError(f"{path} lists images more than once ({_enumerate(repeated)}). Merge their rows.")
    missing = [image for image in images if not os.path.isfile(os.path.join(root, image))]
    if missing:
        raise UserError(
            f"{path} lists images that do not exist ({_enumerate(missing)}). Paths are relative to the CSV file."
        )


def _split_labels(text: str) -> tuple[str, ...]:
    """Return the distinct labels in a cell, sorted.

    Example:
      >>> _split_labels("sea | beach|sea")
      ('beach', 'sea')
    """
    return tuple(sorted({name.strip() for name in text.split(SEPARATOR)} - {""}))


def _enumerate(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES_LISTED:,} more" if len(names) > MAX_NAMES_LISTED else ""
    return f"{', '.join(names[:MAX_NAMES_LISTED])}{more}"
