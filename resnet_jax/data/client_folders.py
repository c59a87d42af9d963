"""A folder with one directory per client of a federated run, as a dataset: `clients:/path`.

The images of a client are in `/path/CLIENT/CLASS/...`. All of them form the split `train`, whose examples know their
client. `/path/val/CLASS/...` and `/path/test/CLASS/...` are splits as in `folder:/path`; they belong to the server.
"""

import functools
import logging
import os

import numpy as np

from resnet_jax.data.folder import SPLITS, canonical_path, find_images, list_directories
from resnet_jax.data.image_list import ImageList
from resnet_jax.errors import UserError

PREFIX = "clients:"

logger = logging.getLogger(__name__)


class ClientImages(ImageList):
    """The images of all clients; the first directory of a path is the client.

    Attributes:
      clients: the names of the clients' directories, sorted; None of them is empty.
    """

    @functools.cached_property
    def clients(self) -> tuple[str, ...]:
        return tuple(sorted({file.split(os.sep)[0] for file in self._files}))

    @functools.cached_property
    def directories(self) -> np.ndarray:
        """The number of each image's client, int32 [n]."""
        numbers = {name: number for number, name in enumerate(self.clients)}
        return np.array([numbers[file.split(os.sep)[0]] for file in self._files], np.int32)


def open_clients(name: str, moved_to: str | None = None) -> dict[str, ImageList]:
    """Return the splits of the dataset `clients:/path`. A client without images is left out, with a warning.

    Args:
      name: the name of the dataset.
      moved_to: the new path of the folder, if it has been moved.

    Raises:
      UserError: if the path is not a directory, or if no client has images.
    """
    root = canonical_path(moved_to or name.removeprefix(PREFIX))
    layout = f"Put images into {root}/CLIENT/CLASS/IMAGE.jpg."
    if not os.path.isdir(root):
        raise UserError(f"there is no folder {root}. {layout}")
    classes_by_file: dict[str, dict[str, str]] = {"train": {}}
    for directory in list_directories(root):
        images, _ = find_images(os.path.join(root, directory))
        split = SPLITS.get(directory.lower(), "train")
        if split == "train" and not images:
            logger.warning(f"The client {directory} has no images in class directories, so it takes no part.")
        files = classes_by_file.setdefault(split, {})
        for class_name, members in images.items():
            files.update({os.path.join(directory, member): class_name for member in members})
    if not classes_by_file["train"]:
        raise UserError(f"no client in the folder {root} has images in class directories. {layout}")
    classes = sorted({class_name for files in classes_by_file.values() for class_name in files.values()})
    numbers = {class_name: number for number, class_name in enumerate(classes)}
    sources = {}
    for split, files in classes_by_file.items():
        labels = {file: numbers[class_name] for file, class_name in files.items()}
        sources[split] = (ClientImages if split == "train" else ImageList)(root, labels, classes)
    return sources
