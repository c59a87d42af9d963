"""Protocols of the data that a run trains on (`Feed`) and of the data that it scores (`EvaluationData`).

Each protocol has two implementations: one for datasets that fit in memory (`resident.ResidentFeed`,
`in_memory.InMemoryExamples`) and one for datasets that are read from disk while they are used
(`streaming.StreamingFeed`, `streaming.StreamedExamples`). `abstract_dataset.AbstractFeed` is a feed without data, for
compiling a train step.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from resnet_jax.data.host_batches import BatchInfo
from resnet_jax.errors import UserError

Inputs = Any  # a NamedTuple of arrays, whose fields only the feed itself reads


class Batch(NamedTuple):
    """Training examples on the devices, sharded over `data`.

    Attributes:
      images: uint8 [batch, height, width, channels].
      labels: int32 [batch].
      positions: int32 [batch], position of each example in the training split.
    """

    images: jax.Array
    labels: jax.Array
    positions: jax.Array


class Feed(Protocol):
    """Training examples, as the compiled train step and the training loop use them.

    The batch of a step is a function of (seed, step) alone. An epoch has as many steps as there are whole batches. The
    remaining examples, fewer than a batch, are skipped; they differ from epoch to epoch.

    Attributes:
      image_shape: (height, width, channels) of the images that `take` returns.
      size: number of training examples.
      steps_per_epoch: number of whole batches in an epoch.
      supports_several_steps: whether one call of the compiled program can take several steps.
      crops_on_host: whether `augment.random_resized_crop` is done on the host.
      max_prefetched: how many batches may be ready before they are requested.
    """

    image_shape: tuple[int, int, int]
    size: int
    steps_per_epoch: int

    @property
    def supports_several_steps(self) -> bool: ...

    @property
    def crops_on_host(self) -> bool: ...

    @property
    def max_prefetched(self) -> int: ...

    def on_device(self, device: jax.Device) -> "Feed":
        """Return a feed of the same examples for a single device of the mesh."""

    def inputs(self, step: int) -> Inputs:
        """Return the arrays on the devices that the compiled program needs for `step`."""

    def take(self, inputs: Inputs, step: jax.Array) -> Batch:
        """Return the batch of a step, under `jax.jit`."""

    def abstract_inputs(self) -> Inputs:
        """Return the shapes, dtypes and shardings of `inputs`."""

    def streamed_inputs(self) -> Inputs:
        """Return the shapes, dtypes and shardings of the arrays that are copied to the devices at every step."""

    def positions(self, step: int) -> np.ndarray:
        """Return which training examples `step` uses: int [n].

        A resident feed returns those of the whole batch. A streaming feed returns those that this process has loaded,
        and only for the step that was requested last.
        """

    def close(self) -> None:
        """Stop the worker processes, if there are any."""


class EvaluationData(Protocol):
    """Examples to be scored. Each one that can be read is scored exactly once; the others are left out and counted.

    An implementation that reads all examples in advance does not contain the unreadable ones. An implementation that
    reads examples while they are scored contains all examples, and gives the unreadable ones the label `NO_LABEL`.

    Attributes:
      subset_positions: int64 [n], position of each example in the subset from which it was read.
    """

    @property
    def subset_positions(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, rows: np.ndarray) -> Iterator[tuple[np.ndarray, BatchInfo]]:
        """Iterate over all examples in order, in batches of equal size.

        Args:
          batch_size: examples per batch, over all processes.
          rows: int [local], the rows of each batch that this process loads.

        Yields:
          Images uint8 [local, height, width, channels], and the `BatchInfo` of these rows. Rows beyond the last example
          are padding.
        """

    def images_at(self, positions: np.ndarray) -> np.ndarray:
        """Return the images at these positions among the examples, as scored: uint8 [n, height, width, channels]."""

    def content_digest(self) -> str:
        """Return a hash that changes with the examples, but not with the place where they are stored."""


def check_batch_size(batch_size: int, num_examples: int) -> None:
    """Raise `UserError` if the examples of an epoch do not fill a single batch."""
    if num_examples < batch_size:
        raise UserError(batch_size_error(batch_size, num_examples))


def batch_size_error(batch_size: int, num_examples: int) -> str:
    """Return the message for training examples that do not fill a single batch."""
    return f"batch_size ({batch_size}) exceeds the number of training examples ({num_examples:,}). Lower batch_size."
