"""Prediction for any number of image files, in batches and in the given order."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from resnet_jax.data import feed_config
from resnet_jax.data.decode import EXTENSIONS, is_image_name
from resnet_jax.data.folder import count_files, iter_files
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter, printable
from resnet_jax.trained_model import Outputs, TrainedModel

STANDARD_INPUT = "-"

logger = logging.getLogger(__name__)

Ranking = list[tuple[str, float]]  # names with their scores, best first
Rank = Callable[[Outputs], list[Ranking]]  # returns the ranking for each image of a batch

# --- Image files ------------------------------------------------------------------------------------------------------


def find_images(arguments: Sequence[str]) -> list[str]:
    """List the images that command-line arguments name.

    Args:
      arguments: files of any name; folders, which stand for all images below them, sorted; and "-" for standard input.
        Whether a file exists is only checked when it is read.

    Raises:
      UserError: for a folder without images.
    """
    paths = []
    for argument in arguments:
        is_folder = argument != STANDARD_INPUT and os.path.isdir(argument)
        paths += find_in_folder(argument) if is_folder else [argument]
    return paths


def find_in_folder(folder: str) -> list[str]:
    """List the images in a folder and its subfolders, sorted. Images are recognized by their file extensions.

    The log counts all other files. Hidden and system directories are left out.

    Raises:
      UserError: if there is no such folder, or it has no images.
    """
    if not os.path.isdir(folder):
        raise UserError(f"there is no such folder ({folder}). Name a folder with images.")
    root = folder.rstrip(os.sep) or os.sep
    files = [os.path.join(root, file) for file in sorted(iter_files(root))]
    paths = [file for file in files if is_image_name(os.path.basename(file))]
    if not paths:
        raise UserError(f"there are no images in {folder}. Image names end in {', '.join(EXTENSIONS)}.")
    if len(paths) < len(files):
        ignored = [file for file in files if not is_image_name(os.path.basename(file))]
        logger.warning(f"Ignored files in {printable(folder)} that, by name, are not images: {count_files(ignored)}.")
    return paths


# --- Predictions ------------------------------------------------------------------------------------------------------


class FilePrediction(NamedTuple):
    """The prediction for an image file.

    Attributes:
      path: path of the image, or "-".
      ranking: names with their scores, best first; empty if the image cannot be read.
      problem: why the image cannot be read, or None.
    """

    path: str
    ranking: Ranking
    problem: str | None


def model_outputs(
    trained: TrainedModel, paths: Sequence[str], reporter: Reporter, what: str = "images"
) -> Iterator[tuple[list[str], Outputs]]:
    """Yield the paths and the model outputs of each batch of images, in order.

    Args:
      trained: the trained model.
      paths: image files; "-" is the image on standard input.
      reporter: shows the progress.
      what: how the progress line names the images.
    """
    standard_input = sys.stdin.buffer.read() if STANDARD_INPUT in paths else b""
    files = [standard_input if path == STANDARD_INPUT else path for path in paths]
    examples = trained.examples(files, feed_config.num_workers(trained.config.dataset))
    show_progress = reporter.counter(f"reading {what}")
    done = 0
    for outputs in trained.outputs(examples):
        batch_size = len(outputs.features)
        yield list(paths[done : done + batch_size]), outputs
        done += batch_size
        show_progress(done, len(paths))


def predictions(paths: Sequence[str], outputs: Outputs, rank: Rank) -> list[FilePrediction]:
    """Return the predictions for a batch of images.

    Args:
      paths: paths of the images.
      outputs: outputs of the model for them.
      rank: ranks names for each image, such as the result of `rank_by_probability`.
    """
    return [
        FilePrediction(path, [], outputs.problems[index])
        if index in outputs.problems
        else FilePrediction(path, ranking, None)
        for index, (path, ranking) in enumerate(zip(paths, rank(outputs), strict=True))
    ]


def rank_by_probability(classes: Sequence[str], top: int, thresholds: Sequence[float] | None = None) -> Rank:
    """Return a function that ranks the `top` most probable classes, or all classes if there are fewer.

    Args:
      classes: the names of the classes.
      top: how many classes to rank at most.
      thresholds: for any number of labels per image, the probability from which each class is predicted. Less probable
        classes are left out. None: no class is left out.

    Example:
      >>> outputs = Outputs(np.array([[0.25, 0.75]]), features=np.zeros((1, 8)), problems={})
      >>> rank_by_probability(["cat", "dog"], top=1)(outputs)
      [[('dog', 0.75)]]
    """

    def rank(outputs: Outputs) -> list[Ranking]:
        labels = np.argsort(-outputs.probabilities, axis=-1, kind="stable")[:, :top]
        return [
            [
                (classes[label], float(probabilities[label]))
                for label in best_labels
                if thresholds is None or probabilities[label] >= thresholds[label]
            ]
            for probabilities, best_labels in zip(outputs.probabilities, labels, strict=True)
        ]

    return rank
