"""A folder of images with any number of labels each, as a dataset: `multi_label_folder:/path`.

The layouts are those of `folder`. An image that is in several class directories, as copies of the same path inside
each, has all of their labels. An image beside the class directories has none:

    train/beach/a.jpg
    train/sea/a.jpg       has the labels beach and sea
    train/sea/b.jpg       has the label sea
    train/c.jpg           has no label
"""

import filecmp
import os

from resnet_jax.data.decode import is_image_name
from resnet_jax.data.folder import canonical_path, check_classes, find_images, find_splits
from resnet_jax.data.image_list import ImageList, open_image_lists
from resnet_jax.errors import UserError

PREFIX = "multi_label_folder:"


def open_multi_label_folder(name: str, moved_to: str | None = None) -> dict[str, ImageList]:
    """Return the splits of the dataset `multi_label_folder:/path`.

    Args:
      name: the name of the dataset.
      moved_to: the new path of the folder, if it has been moved.

    Raises:
      UserError: if the path is not a directory, a split has no labels, directories do not look like classes, or two
        files with the same path inside their class directories differ.
    """
    root = canonical_path(moved_to or name.removeprefix(PREFIX))
    layout = f"Put images into {root}/train/CLASS/IMAGE.jpg, once for each of their classes."
    if not os.path.isdir(root):
        raise UserError(f"there is no folder {root}. {layout}")
    directories = find_splits(root) or {"train": root}
    splits = {split: _labels_by_image(root, directory) for split, directory in directories.items()}
    for split, labels in splits.items():
        if not any(labels.values()):
            raise UserError(f"the folder {directories[split]} has no images in class directories. {layout}")
    if root in directories.values():
        check_classes(root, [image for image, labels in splits["train"].items() if labels])
    return open_image_lists(root, splits, multi_label=True)


def _labels_by_image(root: str, directory: str) -> dict[str, tuple[str, ...]]:
    """Return the labels of each image in the directory of a split, by its path relative to `root`."""
    images, others = find_images(directory)
    files = [(class_name, os.path.join(directory, file)) for class_name, files in images.items() for file in files]
    beside = [path for path in others if os.path.dirname(path) == directory and is_image_name(os.path.basename(path))]
    first: dict[str, str] = {}  # the first file of each image, by its path inside the class directory
    labels: dict[str, set[str]] = {}
    for class_name, path in [*sorted(files), *((None, path) for path in sorted(beside))]:
        same = first.setdefault(os.path.relpath(path, os.path.join(directory, class_name or "")), path)
        if path != same and not filecmp.cmp(path, same, shallow=False):
            raise UserError(
                f"{path} and {same} have the same path inside their classes, so they must be the same image, but they "
                "differ. Rename one of them."
            )
        labels.setdefault(same, set()).update([class_name] if class_name else [])
    return {os.path.relpath(path, root): tuple(sorted(names)) for path, names in labels.items()}
