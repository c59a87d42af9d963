"""Image files by split, each with one label or any number of them, as sources of examples."""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np

from resnet_jax.data.folder import ImageFiles, interleave


class ImageList(ImageFiles):
    """The images of one split.

    The images are ordered so that every slice contains all labels in proportion; see `folder.interleave`.

    Args:
      root: the directory to which the paths of the images are relative.
      images: the label of each image, by its path; see `labels`.
      classes: the names of the classes.
      label_sets: bool [sets, classes]; None if each image has one label.

    Attributes:
      classes: the names of the classes.
      labels: int32 [n]: the class of each image, or, with `label_sets`, the number of its row there.
      label_sets: bool [sets, classes]: the distinct combinations of labels that images have, for all splits.
    """

    def __init__(
        self, root: str, images: Mapping[str, int], classes: Sequence[str], label_sets: np.ndarray | None = None
    ):
        self.classes = tuple(classes)
        self.label_sets = label_sets
        members: dict[int, list[str]] = {}
        for file, label in images.items():
            members.setdefault(label, []).append(file)
        numbers = sorted(members)
        files, order = interleave([members[number] for number in numbers])
        super().__init__(root, files, [numbers[index] for index in order])

    @functools.cached_property
    def content_digest(self) -> str:
        """Hash of the names of all images, their combinations of labels, and the sizes of up to `SIZES_HASHED` of them.

        It does not include `labels`, which are compared separately; see `Source`.
        """
        digest = hashlib.sha256(os.fsencode("\n".join([*self._files, *self.classes])))
        if self.label_sets is not None:
            digest.update(np.packbits(self.label_sets).tobytes())
        self._hash_sizes(digest)
        return digest.hexdigest()


def open_image_lists(
    root: str, splits: Mapping[str, Mapping[str, tuple[str, ...]]], multi_label: bool
) -> dict[str, ImageList]:
    """Return the splits of a dataset.

    Args:
      root: the directory to which the paths of the images are relative.
      splits: for each split, the labels of each image by its path, sorted.
      multi_label: whether images have any number of labels; if not, each has one.
    """
    # Sorted, so that neither labels nor the order of examples depend on the order of the images.
    combinations = sorted({labels for images in splits.values() for labels in images.values()})
    classes = sorted({name for labels in combinations for name in labels})
    label_sets = None
    if multi_label:
        label_sets = np.array([[name in labels for name in classes] for labels in combinations], bool)
    numbers = {labels: number for number, labels in enumerate(combinations)}
    return {
        split: ImageList(root, {image: numbers[labels] for image, labels in images.items()}, classes, label_sets)
        for split, images in splits.items()
    }
