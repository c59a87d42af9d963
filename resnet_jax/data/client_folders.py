"""A folder with one directory per client of a federated run, as a dataset: `clients:/path`.

The images of a client are in `/path/CLIENT/CLASS/...`. All of them form the split `train`, which records the client of
each image. `/path/val/CLASS/...` and `/path/test/CLASS/...` are splits as in `folder:/path`; they belong to the server.
"""

import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np

from resnet_jax.data.folder import SPLITS, canonical_path, check_classes, find_images, interleave, list_directories
from resnet_jax.data.image_list import ImageList
from resnet_jax.errors import UserError

PREFIX = "clients:"

logger = logging.getLogger(__name__)


class ClientImages(ImageList):
    """The images of all clients; the first directory of a path is the client.

    The order of a client's images does not depend on those of other clients. So a client that has only its own images
    uses them in the same order as in a simulation of all clients.

    Args:
      root, images, classes: as in `ImageList`.
      ignored: paths of files that are not images in class directories.

    Attributes:
      clients: the names of the clients' directories, sorted.
      directories: int32 [n], the number of each image's client.
    """

    def __init__(self, root: str, images: Mapping[str, int], classes: Sequence[str], ignored: Sequence[str] = ()):
        super().__init__(root, images, classes)
        self.ignored = ignored
        by_client: dict[str, dict[str, int]] = {}
        for file, label in sorted(images.items()):
            by_client.setdefault(file.split(os.sep)[0], {})[file] = label
        self.clients = tuple(by_client)
        placed = []
        for number, own in enumerate(by_client.values()):
            files, _ = interleave([[file for file in own if own[file] == label] for label in sorted({*own.values()})])
            placed += [((place + 0.5) / len(files), number, file) for place, file in enumerate(files)]
        placed.sort()
        self._files = [file for _, _, file in placed]
        self.labels = np.array([images[file] for file in self._files], np.int32)
        self.directories = np.array([number for _, number, _ in placed], np.int32)


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
    ignored: list[str] = []
    for directory in list_directories(root):
        split = SPLITS.get(directory.lower())
        if split == "train":
            raise UserError(
                f"{root} has a directory {directory}, so it is not a folder with one directory per client. If this "
                f"directory holds those of the clients, use clients:{root}/{directory}. If it is a split, use "
                f"folder:{root}."
            )
        found, others = _find_classes(root, directory)
        ignored += others
        if split and not found:
            raise UserError(
                f"the folder {os.path.join(root, directory)} has no images in class directories. Add images, or remove "
                "the folder."
            )
        split = split or "train"
        if not found:
            logger.warning(f"The client {directory} has no images in class directories, so it takes no part.")
        classes_by_file.setdefault(split, {}).update(found)
    if not classes_by_file["train"]:
        raise UserError(f"no client in the folder {root} has images in class directories. {layout}")
    classes = sorted({class_name for files in classes_by_file.values() for class_name in files.values()})
    labels = {
        split: {file: classes.index(class_name) for file, class_name in files.items()}
        for split, files in classes_by_file.items()
    }
    sources: dict[str, ImageList] = {"train": ClientImages(root, labels.pop("train"), classes, ignored)}
    return sources | {split: ImageList(root, files, classes) for split, files in labels.items()}


def open_client(path: str, classes: Sequence[str]) -> ClientImages:
    """Return the images of a single client, in the order that they have in a simulation of all clients.

    Args:
      path: the directory of the client, with one directory per class.
      classes: the names of the classes of all clients, in the order of their labels.

    Raises:
      UserError: if the directory has no images, or a class that is not in the list.
    """
    root, client = os.path.split(canonical_path(path))
    found, _ = _find_classes(root, client) if os.path.isdir(path) else ({}, [])
    if not found:
        raise UserError(f"there are no images in {path}. Put them into {path}/CLASS/IMAGE.jpg.")
    unknown = sorted({*found.values()} - {*classes})
    if unknown:
        raise UserError(
            f"{path} has classes that are not in the list of all classes ({', '.join(unknown)}). Add them to the list, "
            "or remove their directories."
        )
    return ClientImages(root, {file: list(classes).index(name) for file, name in found.items()}, classes)


def _find_classes(root: str, directory: str) -> tuple[dict[str, str], list[str]]:
    """Return the class of each image in a directory, by its path relative to `root`, and the paths of all other files.

    Raises:
      UserError: as `folder.check_classes` does.
    """
    images, ignored = find_images(os.path.join(root, directory))
    check_classes(os.path.join(root, directory), [file for files in images.values() for file in files])
    classes = {os.path.join(directory, file): class_name for class_name, files in images.items() for file in files}
    return classes, ignored
