"""Cache of decoded examples in the user's cache directory.

Datasets of small images are decoded once, instead of at every start of a run.
"""

import contextlib
import hashlib
import os
from importlib import metadata

import numpy as np

from resnet_jax.data.subset import Subset
from resnet_jax.runtime import user_cache

MAX_BYTES = 2 * 10**9  # of the whole cache
FORMAT = 1  # increase it when `host_batches.decode_image` returns other pixels for the same file
DECODERS = ("pillow", "simplejpeg", "opencv-python-headless")  # an entry is used only with the versions that wrote it


class DecodeCache:
    """The cache entry of a subset: uint8 images [n, height, width, channels] and int32 labels [n].

    There is an entry only if all images can be read and all sources have fingerprints, which show that their files have
    not changed.
    """

    def __init__(self, subset: Subset):
        fingerprint = subset.fingerprint()
        directory = user_cache.directory("decoded") if fingerprint else None
        versions = [f"{name} {metadata.version(name)}" for name in DECODERS] if directory else ()
        key = hashlib.sha256(" ".join([str(fingerprint), str(FORMAT), *versions]).encode()).hexdigest()
        self._path = directory / f"{key}.npz" if directory else None
        self._size = len(subset)

    def load(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return images and labels, or None if the entry is missing or damaged."""
        if self._path is None:
            return None
        try:
            # The file is opened here, because np.load leaves damaged files open. Reading an array checks its checksum.
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                images, labels = arrays["images"], arrays["labels"]
        except Exception:  # A damaged zip archive raises errors of many types. The entry is then written anew.
            return None
        if (len(images), labels.shape, images.dtype, labels.dtype) != (self._size, (self._size,), np.uint8, np.int32):
            return None
        with contextlib.suppress(OSError):
            os.utime(self._path)  # Mark the entry as recently used.
        return images, labels

    def save(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Write the entry, unless it is too large for the cache."""
        if self._path is not None and images.nbytes + labels.nbytes < MAX_BYTES:
            user_cache.write(self._path, lambda file: np.savez(file, images=images, labels=labels), MAX_BYTES)
