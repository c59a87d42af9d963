"""Contact sheet: a few images of each class in one image, to see at a glance whether the labels are correct."""

import contextlib
from collections.abc import Iterator

import numpy as np

from resnet_jax import files, image_grid
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.host_batches import decode_image
from resnet_jax.data.inspect.scan import ScannedDataset

MAX_CLASSES = 20
MAX_IMAGES = 8  # per class
TARGET = ("the contact sheet", ".png")  # what is written, in words, and its file name extension


def check(path: str) -> None:
    """Check early that `write` can write to `path`; raise `UserError` if it cannot."""
    files.check_target(path, *TARGET)


def write(path: str, scanned: ScannedDataset, positions: np.ndarray) -> str | None:
    """Write a contact sheet as PNG, atomically.

    The sheet has one row for each of the first `MAX_CLASSES` classes that have an image. It shows up to `MAX_IMAGES`
    images per class, chosen at random with a fixed seed.

    Args:
      path: path of the PNG.
      scanned: the dataset.
      positions: positions of the examples from which the images are chosen.

    Returns:
      The path, or None if there is nothing to show.

    Raises:
      UserError: if the file cannot be written.
    """
    random = np.random.default_rng(0)
    positions = positions[scanned.readable[positions]]
    labels = scanned.records["label"][positions]
    titles: list[tuple[str, str]] = []
    rows: list[list[np.ndarray]] = []
    for label, name in enumerate(scanned.subset.classes):
        members = positions[labels == label]
        if len(members) and len(titles) < MAX_CLASSES:
            chosen = np.sort(random.permutation(members)[:MAX_IMAGES])
            titles.append((name, f"{len(members):,} image{'s' if len(members) > 1 else ''}"))
            rows.append(list(_read_images(scanned, chosen)))
    if not titles:
        return None
    files.write_target(path, *TARGET, image_grid.as_png(image_grid.titled_rows(titles, rows)))
    return path


def _read_images(scanned: ScannedDataset, positions: np.ndarray) -> Iterator[np.ndarray]:
    for position in positions:
        with contextlib.suppress(Unreadable):  # The file may have been removed since the scan.
            yield decode_image(scanned.subset[position][0], scanned.subset.channels, scanned.subset.bit_depth)
