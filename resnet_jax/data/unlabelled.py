"""Pictures that someone has, without labels: what a trained network is asked about."""

import os
from collections.abc import Sequence

import numpy as np

from resnet_jax.data.decode import read_file


class UnlabelledPictures:
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
