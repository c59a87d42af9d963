"""Images to predict, as a source of examples."""

import os
from collections.abc import Sequence

import numpy as np

from resnet_jax.data.decode import read_file


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
