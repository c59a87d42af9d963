"""Decoded examples, kept in the user's cache directory: a set of small pictures is decoded once, not at every start."""

import contextlib
import hashlib
import os
from importlib import metadata

import numpy as np

from resnet_jax.data.subset import Subset
from resnet_jax.runtime import user_cache

LARGEST = 2 * 10**9  # bytes, of all that is kept
FORMAT = 1  # another one where what `loading.pixels_of` makes of a file changes
DECODERS = ("pillow", "simplejpeg", "opencv-python-headless")


class DecodeCache:
    """What is kept of a selection: uint8 images [n, height, width, channels] and int32 labels [n], if all can be read.

    Only where the sources have fingerprints, which tell that their files are still the same, is anything kept.
    """

    def __init__(self, selection: Subset):
        fingerprint = selection.fingerprint()
        place = user_cache.directory("decoded") if fingerprint else None
        versions = [f"{name} {metadata.version(name)}" for name in DECODERS] if place else ()
        key = hashlib.sha256(" ".join([str(fingerprint), str(FORMAT), *versions]).encode()).hexdigest()
        self._path, self._size = place and place / f"{key}.npz", len(selection)

    def load(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Images and labels; None where they are not kept, or not as they were written."""
        if self._path is None:
            return None
        try:
            with np.load(self._path, allow_pickle=False) as arrays:  # Checks the sums of both arrays.
                images, labels = arrays["images"], arrays["labels"]
        except Exception:  # Damaged bits of a zip archive are errors of many types; then it is made again.
            return None
        if (len(images), labels.shape, images.dtype, labels.dtype) != (self._size, (self._size,), np.uint8, np.int32):
            return None
        with contextlib.suppress(OSError):
            os.utime(self._path)  # It has been used now.
        return images, labels

    def keep(self, images: np.ndarray, labels: np.ndarray) -> None:
        if self._path is not None and images.nbytes + labels.nbytes < LARGEST:
            user_cache.keep(self._path, lambda file: np.savez(file, images=images, labels=labels), LARGEST)
