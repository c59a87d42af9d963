"""Some pictures of each class in one, to see at a glance whether the classes are what they are called."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from resnet_jax import files, image_grid
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.host_batches import pixels_of
from resnet_jax.data.inspect.scan import Looked

MOST_CLASSES = 20
MOST_PICTURES = 8  # of a class
TARGET = ("the contact sheet", ".png")  # what is written, in words and as a file


def check(path: str) -> None:
    """Raises `UserError` where `write` could not write."""
    files.check_target(path, *TARGET)


def write(path: str, looked: Looked, positions: np.ndarray) -> str | None:
    """Writes a PNG, wholly or not at all; returns its path, or None where there is nothing to show.

    It has a row for each of the first `MOST_CLASSES` classes that have a picture, with some of them, chosen at random
    and each time the same.

    Args:
      path: of the PNG.
      looked: the data set.
      positions: of the examples to choose from.

    Raises:
      UserError: if it cannot be written.
    """
    random = np.random.default_rng(0)
    positions = positions[looked.readable[positions]]
    labels = looked.records["label"][positions]
    titles, rows = [], []
    for label, name in enumerate(looked.selection.classes):
        members = positions[labels == label]
        if len(members) and len(titles) < MOST_CLASSES:
            chosen = np.sort(random.permutation(members)[:MOST_PICTURES])
            titles.append((name, f"{len(members):,} picture{'s' if len(members) > 1 else ''}"))
            rows.append(list(_read(looked, chosen)))
    if not titles:
        return None
    sheet = io.BytesIO()
    Image.fromarray(image_grid.titled_rows(titles, rows)).save(sheet, format="PNG")
    files.write_target(path, *TARGET, sheet.getvalue())
    return path


def _read(looked: Looked, positions: np.ndarray) -> Iterator[np.ndarray]:
    for position in positions:
        with contextlib.suppress(Unreadable):  # It may have been removed since it was looked at.
            yield pixels_of(looked.selection[position][0], looked.selection.channels)
