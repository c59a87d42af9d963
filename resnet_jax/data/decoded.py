"""Images that were decoded once, as a dataset: `decoded:/path`. `decoded_writer` writes it.

Decoding a JPEG takes most of the time of a data worker, and every epoch repeats it. Here the images are stored as
pixels, with their short side resized to, for example, 256. That takes two to three times the space of the JPEG files.

The directory holds array_record files, in which each record is four int32 (height, width, channels, label) and the
pixels, and `decoded.json`, which is written last:

    {"origin": ..., "classes": [...], "label_sets": null, "size": 256, "bit_depth": 16, "content": {...},
     "splits": {"train": {"channels": 3, "shards": [...], "digests": [...]}, ...}}

The labels and the names of the images of a split are in two files beside it, `train.labels.npy` and `train.names.json`.

The record of an unreadable image has height 0, and the reason in place of the pixels. So all images keep their
positions.
"""

import functools
import hashlib
import json
import os
from collections.abc import Mapping

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from resnet_jax.data.decode import Unreadable
from resnet_jax.data.folder import canonical_path
from resnet_jax.errors import UserError, first_line

PREFIX = "decoded:"
INFO = "decoded.json"
HEADER = np.dtype("<i4")
HEADER_BYTES = 4 * HEADER.itemsize


class DecodedSource:
    """The images of one split; implements `sources.Source`.

    Args:
      root: the directory.
      info: the content of `decoded.json`.
      split: the name of the split.
    """

    def __init__(self, root: str, info: Mapping, split: str):
        self.classes = tuple(info["classes"])
        sets = info["label_sets"]
        self.label_sets = None if sets is None else np.asarray(sets, bool)
        entry = info["splits"][split]
        self.channels, self.bit_depth = entry["channels"], info["bit_depth"]
        self.labels = np.load(os.path.join(root, f"{split}.labels.npy"))
        with open(os.path.join(root, f"{split}.names.json"), encoding="utf-8") as file:
            self._names = json.load(file)
        content = [*entry["digests"], *self.classes, json.dumps(sets)]
        self.content_digest = hashlib.sha256("\n".join(content).encode()).hexdigest()
        self._paths = [os.path.join(root, shard) for shard in entry["shards"]]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return _parse(self._records[index])

    def name(self, index: int) -> str:
        """Return the name that the image had in the original dataset."""
        return self._names[index]

    @functools.cached_property
    def _records(self) -> ArrayRecordDataSource:
        return ArrayRecordDataSource(self._paths)

    def __getstate__(self) -> dict:
        """Leave out the open files, so that each worker process opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_records"}


def open_decoded(name: str, moved_to: str | None = None) -> dict[str, DecodedSource]:
    """Return the splits of the dataset `decoded:/path`.

    Args:
      name: the name of the dataset.
      moved_to: the new path of the directory, if it has been moved.

    Raises:
      UserError: if the directory holds no complete dataset.
    """
    root = canonical_path(moved_to or name.removeprefix(PREFIX))
    if not os.path.exists(os.path.join(root, INFO)):
        raise UserError(
            f"{root} holds no decoded dataset ({INFO} is missing). Write one with the command decode, or let it finish."
        )
    try:
        with open(os.path.join(root, INFO), encoding="utf-8") as file:
            info = json.load(file)
        sources = {split: DecodedSource(root, info, split) for split in info["splits"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{root} is damaged ({first_line(error)}). Write it again with the command decode.") from None
    for source in sources.values():
        for path in source._paths:
            if not os.path.exists(path):
                raise UserError(f"{path} is missing. Write {root} again with the command decode.")
    return sources


def _parse(record: bytes) -> tuple[np.ndarray, int]:
    """Return image and label of a record; raise `Unreadable` if the image could not be decoded."""
    height, width, channels, label = np.frombuffer(record, HEADER, 4).tolist()
    if not height:
        raise Unreadable(record[HEADER_BYTES:].decode())
    return np.frombuffer(record, np.uint8, offset=HEADER_BYTES).reshape(height, width, channels), label
