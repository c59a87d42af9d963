"""What picture files show: any number of them, in batches, in the order in which they are named."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from resnet_jax.data import feed_config
from resnet_jax.data.decode import EXTENSIONS, is_picture
from resnet_jax.data.folder import walk
from resnet_jax.errors import UserError
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import Outputs, TrainedModel

STANDARD_INPUT = "-"

Ranked = list[tuple[str, float]]  # names with their scores, the best first
Rank = Callable[[Outputs], list[Ranked]]  # what comes of each picture of a batch


class Prediction(NamedTuple):
    """What is said of a picture.

    picture: its path, or "-"; best: names and scores; problem: why there are none, where it could not be read.
    """

    picture: str
    best: Ranked
    problem: str | None


def find(named: Sequence[str]) -> list[str]:
    """The pictures that are named: files, whatever they are called, folders with all that lies below them, and "-".

    Of a folder, files that are pictures by their extension, sorted. Whether a file is there shows when it is read.

    Raises:
      UserError: for a folder without pictures.
    """
    found = []
    for path in named:
        found += find_in(path) if path != STANDARD_INPUT and os.path.isdir(path) else [path]
    return found


def find_in(folder: str) -> list[str]:
    """The pictures of a folder, sorted; raises `UserError` if there is none, or no such folder."""
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}: name one with pictures")
    root = folder.rstrip(os.sep) or os.sep
    found = [os.path.join(root, file) for file in sorted(walk(root)) if is_picture(os.path.basename(file))]
    if not found:
        raise UserError(f"the folder {folder} holds no pictures: their names end in {', '.join(EXTENSIONS)}")
    return found


def outputs(
    run: TrainedModel, pictures: Sequence[str], reporter: Reporter, what: str = "images"
) -> Iterator[tuple[list[str], Outputs]]:
    """Some of the pictures after others, in order, and what the network makes of them.

    "-" is the picture that comes on standard input. `what` names them on the progress line.
    """
    given = sys.stdin.buffer.read() if STANDARD_INPUT in pictures else b""
    files = [given if picture == STANDARD_INPUT else picture for picture in pictures]
    show, done = reporter.counter(f"reading {what}"), 0
    for some in run.outputs(run.examples(files, feed_config.num_workers(run.config.dataset))):
        count = len(some.features)
        yield list(pictures[done : done + count]), some
        done += count
        show(done, len(pictures))


def answers(pictures: Sequence[str], of: Outputs, rank: Rank) -> list[Prediction]:
    """What is said of some pictures, by what the network makes of them."""
    return [
        Prediction(picture, [] if place in of.problems else best, of.problems.get(place))
        for place, (picture, best) in enumerate(zip(pictures, rank(of), strict=True))
    ]


def likeliest(classes: Sequence[str], top: int) -> Rank:
    """Ranks classes by their probabilities: the `top` likeliest, or all where there are fewer."""

    def rank(of: Outputs) -> list[Ranked]:
        labels = np.argsort(-of.probabilities, axis=-1, kind="stable")[:, :top]
        return [
            [(classes[label], float(row[label])) for label in best]
            for row, best in zip(of.probabilities, labels, strict=True)
        ]

    return rank
