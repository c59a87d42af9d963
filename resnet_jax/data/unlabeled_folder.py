"""A folder of images without labels, as a dataset for pre-training: `images:/path`.

All images in the folder and in the directories below it form the split `train`. Names of directories have no meaning.
"""

import os

from resnet_jax.data.decode import is_image_name
from resnet_jax.data.folder import canonical_path, iter_files
from resnet_jax.data.image_list import ImageList, open_image_lists
from resnet_jax.errors import UserError

PREFIX = "images:"
CLASSES = ("unlabeled",)


def open_unlabeled_folder(name: str, moved_to: str | None = None) -> dict[str, ImageList]:
    """Return the only split of the dataset `images:/path`.

    Args:
      name: the name of the dataset.
      moved_to: the new path of the folder, if it has been moved.

    Raises:
      UserError: if the path is not a directory, or has no images.
    """
    root = canonical_path(moved_to or name.removeprefix(PREFIX))
    if not os.path.isdir(root):
        raise UserError(f"there is no folder {root}. Check --config.dataset.name.")
    images = [file for file in iter_files(root) if is_image_name(os.path.basename(file))]
    if not images:
        raise UserError(f"the folder {root} has no images. Check --config.dataset.name.")
    return open_image_lists(root, {"train": dict.fromkeys(images, CLASSES)}, multi_label=False)
