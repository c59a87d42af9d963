"""Checks of the classes of a new run: there are at least two, and the model can learn each of them.

`inspect` makes the same checks on all images. Here, images are decoded only in a `folder:` dataset, and of each class
only until one can be decoded.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from resnet_jax.data import class_matching, splits
from resnet_jax.data.decode import Unreadable
from resnet_jax.data.folder import FolderSource
from resnet_jax.data.host_batches import decode_image
from resnet_jax.data.sources import Source
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError, program

logger = logging.getLogger(__name__)


def check(dataset: ConfigDict, sources: Mapping[str, Source]) -> None:
    """Check the classes of the splits that a new run uses, and warn of names that are nearly equal.

    A split whose sources do not list their `labels` is not checked.

    Args:
      dataset: the settings, with resolved splits.
      sources: the base splits.

    Raises:
      UserError: if all training examples belong to the same class, if a class of a scored split has no training
        examples that can be read, or if a folder has a class without any example.
    """
    train = Subset.from_split(sources, dataset.train_split)
    names = class_matching.distinct(train.classes)
    similar = class_matching.similar(train.classes)
    if similar:
        logger.warning(similar)
    is_folder = any(isinstance(source, FolderSource) for source in sources.values())
    if is_folder:
        _check_empty_classes(names, sources.values())
    labels = train.listed_labels()
    if labels is None:
        return
    if train.label_sets is not None:
        _check_label_sets(names, train.label_sets[np.unique(labels)], dataset.train_split)
        return
    learnable = _readable_classes(train, labels) if is_folder else set(labels.tolist())
    unreadable = [names[label] for label in sorted({*labels.tolist()} & {*range(len(names))} - learnable)]
    if unreadable:
        raise UserError(
            f"there are classes of {dataset.train_split} without any image that can be read ({', '.join(unreadable)}). "
            f"`{program()} inspect` says why. Replace these images, or remove the directories."
        )
    error = single_class_error(names, learnable)
    if error:
        raise UserError(error)
    for split in splits.configured(dataset).values():
        scored_labels = Subset.from_split(sources, split).listed_labels()
        present = set() if scored_labels is None else set(scored_labels.tolist()) & set(range(len(names)))
        unknown = [names[label] for label in sorted(present - learnable)]
        if unknown:
            raise UserError(
                f"{split} has images of classes ({', '.join(unknown)}) that {dataset.train_split} has no images of, "
                f"so the model cannot learn them. Add such images to {dataset.train_split}, or remove them from "
                f"{split}."
            )


def _check_label_sets(names: Sequence[str], label_sets: np.ndarray, split: str) -> None:
    """Raise `UserError` if a class has no training example, or if all training examples have it.

    Args:
      names: the names of the classes.
      label_sets: bool [sets, classes], the combinations of labels that training examples have.
      split: the training split, for the message.
    """
    constant = [name for name, column in zip(names, label_sets.T, strict=True) if not column.any() or column.all()]
    if constant:
        raise UserError(
            f"there are classes that no image of {split} has, or all images have ({', '.join(constant)}), so there is "
            "nothing to learn about them. Add images, or remove these labels."
        )


def single_class_error(names: Sequence[str], labels: Iterable[int]) -> str | None:
    """Return an error message if all of the `labels` of the training examples are the same, else None.

    Args:
      names: the names of the classes.
      labels: the labels, in any number and order.
    """
    present = set(labels)
    if len(present) != 1:
        return None
    (label,) = present
    name = names[label] if 0 <= label < len(names) else label
    return (
        f"all training examples belong to one class ({name}), so there is nothing to learn. Add images of other "
        "classes. In a folder, each class is a directory."
    )


def _check_empty_classes(names: Sequence[str], sources: Iterable[Source]) -> None:
    """Raise `UserError` if no source has an example of a class. In a user's folder, this is a mistake."""
    present = {label for source in sources for label in np.unique(getattr(source, "labels", ())).tolist()}
    empty = [name for label, name in enumerate(names) if label not in present]
    if empty:
        raise UserError(
            f"there are classes without any image ({', '.join(empty)}). Add images to these directories, or remove "
            "the directories."
        )


def _readable_classes(train: Subset, labels: np.ndarray) -> set[int]:
    """Return the labels of the classes with at least one image that can be decoded."""
    readable: set[int] = set()
    for position, label in enumerate(labels.tolist()):
        if label in readable:
            continue
        try:
            decode_image(train[position][0], train.channels)
        except Unreadable:
            continue
        readable.add(label)
    return readable
