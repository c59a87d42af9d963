"""The order in which each epoch visits the training examples: a function of (seed, epoch) alone."""

import functools
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from resnet_jax import randomness
from resnet_jax.data.subset import NO_LABEL
from resnet_jax.errors import unknown_name
from resnet_jax.randomness import Use

SAMPLERS = ("uniform", "balanced")  # values of `dataset.sampler`


class Sampler(Protocol):
    """The order of the examples in each epoch.

    Attributes:
      seed: the seed of the run.
      size: the number of training examples, which is also the number of examples in an epoch.
    """

    seed: int
    size: int

    def __call__(self, epoch: int) -> np.ndarray:
        """Return the positions of the examples of an epoch, in the order of their use: int64 [size]."""


def check(dataset: ConfigDict) -> None:
    """Raise `UserError` if `dataset.sampler` is unknown."""
    if dataset.sampler not in SAMPLERS:
        raise unknown_name("dataset.sampler", dataset.sampler, SAMPLERS)


class UniformSampler:
    """Visits each example once per epoch, in random order."""

    def __init__(self, seed: int, size: int):
        self.seed, self.size = seed, size

    def __call__(self, epoch: int) -> np.ndarray:
        """Return a random permutation of all positions."""
        return epoch_order(self.seed, epoch, self.size)


class BalancedSampler:
    """Visits each class equally often: an epoch has as many examples as the dataset, and repeats those of rare classes.

    Within a class, the numbers of visits per epoch differ by at most one between examples. Which examples are visited
    more often is random in each epoch. If the size is not a multiple of the number of classes, the classes take turns
    to have one example more.

    Args:
      seed: the seed of the run.
      labels: int [size], the labels of the training examples. Classes without examples are ignored, and so are
        unreadable examples, whose label is `NO_LABEL`.
    """

    def __init__(self, seed: int, labels: np.ndarray):
        self.seed, self.size = seed, len(labels)
        self._members = [np.flatnonzero(labels == label) for label in np.unique(labels) if label != NO_LABEL]
        self._orders: dict[int, np.ndarray] = {}  # of the two epochs that were requested last

    def __call__(self, epoch: int) -> np.ndarray:
        """Return positions of equally many examples of each class, in random order."""
        if epoch not in self._orders:
            self._orders = {**dict(list(self._orders.items())[-1:]), epoch: self._draw(epoch)}
        return self._orders[epoch]

    def _draw(self, epoch: int) -> np.ndarray:
        num_classes = len(self._members)
        share, remainder = divmod(self.size, num_classes)
        chosen = []
        for number, members in enumerate(self._members):
            count = share + ((number - epoch * remainder) % num_classes < remainder)
            order = randomness.permutation(self.seed, Use.SAMPLING, (epoch, number), len(members))
            chosen.append(members[np.resize(order, count)])
        return np.concatenate(chosen)[epoch_order(self.seed, epoch, self.size)]


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order in which an epoch visits `size` examples, the same for all feeds: int64 [size]."""
    return randomness.permutation(seed, Use.SHUFFLING, (epoch,), size)
