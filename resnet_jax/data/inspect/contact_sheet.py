"""Some pictures of each class in one, to see at a glance whether the classes are what they are called."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from resnet_jax import pictures
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.inspect.look import Looked
from resnet_jax.data.loading import pixels_of
from resnet_jax.errors import UserError

MOST_CLASSES = 20
MOST_PICTURES = 8  # of a class


def check(path: str) -> None:
    """Raises `UserError` where nothing can be written; better known before all pictures are looked at than after."""
    target = pathlib.Path(path)
    if target.is_dir() or not os.access(target.parent, os.W_OK):
        raise UserError(f"cannot write the contact sheet to {path!r}: name a file in a folder that can be written to")


def write(path: str, looked: Looked, positions: np.ndarray) -> str | None:
    """Writes a PNG, wholly or not at all; returns its path, or None where there is nothing to show.

    It has a row for each of the first `MOST_CLASSES` classes that have a picture, with some of them, chosen at random
    and each time the same.

    Args:
      path: of the PNG.
      looked: the data set.
      positions: of the examples to choose from.
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
    target = pathlib.Path(path)
    unfinished = target.with_name(f".{target.name}.unfinished")
    Image.fromarray(pictures.titled_rows(titles, rows)).save(unfinished, format="PNG")
    unfinished.replace(target)
    return path


def _read(looked: Looked, positions: np.ndarray) -> Iterator[np.ndarray]:
    for position in positions:
        with contextlib.suppress(Unreadable):  # It may have been removed since it was looked at.
            yield pixels_of(looked.selection[position][0], looked.selection.channels)
