"""The order in which each epoch visits the training examples: a function of (seed, epoch) alone."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from resnet_jax import randomness
from resnet_jax.data.subset import NO_LABEL
from resnet_jax.errors import unknown_name
from resnet_jax.randomness import Use

SAMPLERS = ("uniform", "balanced")  # values of `dataset.sampler`
GROUP_SIZE = 16  # images whose copies `RepeatingSampler` interleaves; even, so that no image is mixed with its copy


class Sampler(Protocol):
    """The order of the examples in each epoch.

    Attributes:
      seed: the seed of the run.
      size: the number of examples in an epoch.
    """

    seed: int
    size: int

    def __call__(self, epoch: int, /) -> np.ndarray:
        """Return the positions of the examples of an epoch, in the order of their use: int64 [size]."""

    def candidates(self, epoch: int, position: int) -> Iterator[int]:
        """Yield a position, and then those of its substitutes in case its example is unreadable.

        They depend only on the arguments, so they are the same for every process and every run.
        """


def check(dataset: ConfigDict) -> None:
    """Raise `UserError` if `dataset.sampler` is unknown."""
    if dataset.sampler not in SAMPLERS:
        raise unknown_name("dataset.sampler", dataset.sampler, SAMPLERS)


class NextExampleSubstitutes:
    """Substitution of an unreadable example by the next readable one."""

    size: int

    def candidates(self, epoch: int, position: int) -> Iterator[int]:
        """Yield all positions, from this one on; see `Sampler.candidates`."""
        return (candidate % self.size for candidate in range(position, position + self.size))


class UniformSampler(NextExampleSubstitutes):
    """Visits each example once per epoch, in random order."""

    def __init__(self, seed: int, size: int):
        self.seed, self.size = seed, size

    def __call__(self, epoch: int) -> np.ndarray:
        """Return a random permutation of all positions."""
        return epoch_order(self.seed, epoch, self.size)


class BalancedSampler(NextExampleSubstitutes):
    """Visits each class equally often: an epoch has as many examples as the dataset, and repeats those of rare classes.

    Within a class, the numbers of visits per epoch differ by at most one between examples. Which examples are visited
    more often is random in each epoch. If the size is not a multiple of the number of classes, the classes take turns
    to have one example more.

    Args:
      seed: the seed of the run.
      labels: int [size], the labels of the training examples. Classes without examples are ignored, and so are
        examples whose label cannot be read (`NO_LABEL`).
    """

    def __init__(self, seed: int, labels: np.ndarray):
        self.seed, self.size, self._labels = seed, len(labels), labels
        self._members = [np.flatnonzero(labels == label) for label in np.unique(labels) if label != NO_LABEL]
        self._orders: dict[int, np.ndarray] = {}  # of the two epochs that were requested last

    def __call__(self, epoch: int) -> np.ndarray:
        """Return positions of equally many examples of each class, in random order."""
        if epoch not in self._orders:
            self._orders = {**dict(list(self._orders.items())[-1:]), epoch: self._draw(epoch)}
        return self._orders[epoch]

    def candidates(self, epoch: int, position: int) -> Iterator[int]:
        """Yield this position, then the others of its class, then those of all classes; see `Sampler.candidates`."""
        yield position
        members = np.flatnonzero(self._labels == self._labels[position])
        first = int(np.searchsorted(members, position))
        yield from map(int, np.concatenate([members[first + 1 :], members[:first]]))
        yield from super().candidates(epoch, position)

    def _draw(self, epoch: int) -> np.ndarray:
        num_classes = len(self._members)
        share, remainder = divmod(self.size, num_classes)
        chosen = []
        for number, members in enumerate(self._members):
            count = share + ((number - epoch * remainder) % num_classes < remainder)
            order = randomness.permutation(self.seed, Use.SAMPLING, (epoch, number), len(members))
            chosen.append(members[np.resize(order, count)])
        return np.concatenate(chosen)[epoch_order(self.seed, epoch, self.size)]


class RepeatingSampler:
    """Repeated augmentation (Berman et al. 2019; Hoffer et al. 2020): several copies of each image in a batch.

    The copies are augmented differently. An epoch is as long as one of the wrapped sampler, so it shows only the first
    1/repeats of that sampler's order, as in DeiT and in torchvision. Each group of `GROUP_SIZE` images is repeated
    `repeats` times, each time rotated by one more place: a b c d, b c d a, c d a b. So within such a group no image is
    next to its copy, and if images are mixed in pairs (`augment.mixing`), neighboring copies have different partners.
    If `GROUP_SIZE` times `repeats` does not divide the batch size, the copies of some images lie in two batches.

    Args:
      sampler: the order of the images.
      repeats: the number of copies.
    """

    def __init__(self, sampler: Sampler, repeats: int):
        self.seed, self.size = sampler.seed, sampler.size
        self._sampler, self._repeats = sampler, repeats

    def __call__(self, epoch: int) -> np.ndarray:
        """Return the positions of the first images, each `repeats` times."""
        order = self._sampler(epoch)[: math.ceil(self.size / self._repeats)]
        complete = len(order) // GROUP_SIZE * GROUP_SIZE
        groups, rest = order[:complete].reshape(-1, GROUP_SIZE), order[complete:]
        copies = np.stack([np.roll(groups, -copy, axis=1) for copy in range(self._repeats)], axis=1)
        return np.concatenate([copies.reshape(-1), np.tile(rest, self._repeats)])[: self.size]

    def candidates(self, epoch: int, position: int) -> Iterator[int]:
        """Yield the candidates of the wrapped sampler."""
        return self._sampler.candidates(epoch, position)


class ClientSampler:
    """The examples that one client of a federated run uses in one round, in place of an epoch.

    The visits are numbered: visit `round * clients + client`. A visit has `num_steps(client)` steps, which go through
    the client's examples in random order, `local_epochs` times. As in an epoch, examples that do not fill a batch are
    skipped. Which ones these are changes from round to round. A client with fewer examples than a batch repeats some of
    them.

    All visits have as many examples as that of the largest client. Those of a smaller client are repeated at the end,
    in steps that are not taken.

    Args:
      seed: the seed of the run.
      parts: the positions of each client's examples.
      labels: int [n], the labels of all training examples.
      batch_size: examples per step.
      local_epochs: how often a client goes through its examples per round.
      local_steps: the number of steps of each client, in place of `local_epochs`; None: not set.
    """

    def __init__(
        self,
        seed: int,
        parts: Sequence[np.ndarray],
        labels: np.ndarray,
        batch_size: int,
        local_epochs: int = 1,
        local_steps: int | None = None,
    ):
        self.seed, self.parts, self.labels, self.batch_size = seed, parts, labels, batch_size
        self._local_epochs, self._local_steps = local_epochs, local_steps
        self.steps_per_visit = max(map(self.num_steps, range(len(parts))))
        self.size = self.steps_per_visit * batch_size

    @property
    def clients(self) -> int:
        return len(self.parts)

    def num_steps(self, client: int) -> int:
        """Return how many steps a client takes per round; 0 if it has no examples."""
        if not len(self.parts[client]):
            return 0
        return self._local_steps or self._local_epochs * self._steps_per_epoch(client)

    def _steps_per_epoch(self, client: int) -> int:
        return max(1, len(self.parts[client]) // self.batch_size)

    def candidates(self, visit: int, position: int) -> Iterator[int]:
        """Yield all positions of the visiting client, from this one on; see `Sampler.candidates`."""
        part = self.parts[visit % self.clients]
        first = int(np.searchsorted(part, position))
        return map(int, np.concatenate([part[first:], part[:first]]))

    def __call__(self, visit: int) -> np.ndarray:
        """Return the positions of a visit's examples, in the order of their use: int64 [size]."""
        part = self.parts[visit % self.clients]
        if not len(part):
            return np.zeros(self.size, np.int64)
        steps = self._steps_per_epoch(visit % self.clients)
        epochs = math.ceil(self.num_steps(visit % self.clients) / steps)
        orders = [epoch_order(self.seed, visit * epochs + epoch, len(part)) for epoch in range(epochs)]
        order = np.concatenate([np.resize(order, steps * self.batch_size) for order in orders])
        return part[np.resize(order, self.size)]


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order in which an epoch visits `size` examples, the same for all feeds: int64 [size]."""
    return randomness.permutation(seed, Use.SHUFFLING, (epoch,), size)
