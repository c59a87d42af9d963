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
import os
from collections.abc import Mapping, Sequence

from resnet_jax.data.folder import canonical_path
from resnet_jax.data.image_list import ImageList, open_image_lists
from resnet_jax.errors import UserError
from resnet_jax.terminal import enumerate_names

PREFIX = "csv:"
SEPARATOR = "|"
MAX_NAMES_LISTED = 5


def open_csv(name: str, moved_to: str | None = None) -> dict[str, ImageList]:
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
        raise UserError(
            f"{path} has images without a label ({enumerate_names(unlabeled, MAX_NAMES_LISTED)}). Add their labels."
        )
    if has_sets and not any(labels):
        raise UserError(f"{path} has no labels. Fill in the column labels.")
    splits: dict[str, dict[str, tuple[str, ...]]] = {}  # the labels of each image, by split
    for row, names in zip(rows, labels, strict=True):
        splits.setdefault(row.get("split", "").strip() or "train", {})[row["image"]] = names
    return open_image_lists(root, splits, multi_label=has_sets)


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
        lines = enumerate_names(incomplete, MAX_NAMES_LISTED)
        raise UserError(f"{path} has rows with too many or too few values (lines {lines}). Fix them.")
    return rows


def _check_images(path: str, root: str, rows: Sequence[Mapping[str, str]]) -> None:
    images = [os.path.normpath(row["image"]) for row in rows]
    repeated = [image for image, count in collections.Counter(images).items() if count > 1]
    if repeated:
        raise UserError(
            f"{path} lists images more than once ({enumerate_names(repeated, MAX_NAMES_LISTED)}). Merge their rows."
        )
    missing = [image for image in images if not os.path.isfile(os.path.join(root, image))]
    if missing:
        raise UserError(
            f"{path} lists images that do not exist ({enumerate_names(missing, MAX_NAMES_LISTED)}). Paths are relative "
            "to the CSV file."
        )


def _split_labels(text: str) -> tuple[str, ...]:
    """Return the distinct labels in a cell, sorted.

    Example:
      >>> _split_labels("sea | beach|sea")
      ('beach', 'sea')
    """
    return tuple(sorted({name.strip() for name in text.split(SEPARATOR)} - {""}))
