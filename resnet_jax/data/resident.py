"""The resident feed: the dataset is stored on the devices as uint8, and each step gathers its batch there."""

import copy
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resnet_jax.data.feed import Batch, check_batch_size
from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.data.sampling import Sampler
from resnet_jax.runtime import parallel


class EpochInputs(NamedTuple):
    """Arrays on the devices that all steps of an epoch share: the whole dataset and the order of its examples.

    Attributes:
      pixels: uint8 [n, height * width * channels]. Images are flattened, because XLA on TPUs would otherwise choose a
        layout in which each gather first copies the whole dataset.
      labels: int32 [n].
      order: int32 [steps_per_epoch, batch], which examples each step of the epoch uses.
    """

    pixels: jax.Array
    labels: jax.Array
    order: jax.Array


class ResidentFeed:
    """A training split that is stored on every device; implements `feed.Feed`.

    Args:
      examples: the training examples.
      batch_size: examples per step, over all devices.
      sampler: the order of the examples.
      mesh: the devices.
    """

    supports_several_steps = True  # All steps of an epoch have the same inputs.
    crops_on_host = False
    max_prefetched = 0  # Each step gathers its own batch.

    def __init__(self, examples: InMemoryExamples, batch_size: int, sampler: Sampler, mesh: Mesh):
        check_batch_size(batch_size, sampler.size)
        self.image_shape = examples.images.shape[1:]
        self.size = len(examples)
        self.steps_per_epoch = sampler.size // batch_size
        self._batch_size, self._sampler, self._mesh = batch_size, sampler, mesh
        pixels = examples.images.reshape(len(examples), -1)
        self._pixels, self._labels = parallel.place((pixels, examples.labels), parallel.replicated(mesh))
        self._last_epoch: int | None = None
        self._last_inputs: EpochInputs  # The inputs of `_last_epoch`.

    def on_device(self, device: jax.Device) -> "ResidentFeed":
        """Return a feed of the same examples for a single device, which must be one of the mesh."""
        feed = copy.copy(self)
        feed._mesh, feed._last_epoch = parallel.make_mesh([device]), None
        replicated = parallel.replicated(feed._mesh)
        feed._pixels, feed._labels = jax.device_put((self._pixels, self._labels), replicated)
        return feed

    def inputs(self, step: int) -> EpochInputs:
        """Return the arrays for `step`, which are the same for all steps of an epoch."""
        epoch = step // self.steps_per_epoch
        if epoch != self._last_epoch:
            shape = self.steps_per_epoch, self._batch_size
            order = self._sampler(epoch)[: math.prod(shape)].astype(np.int32).reshape(shape)
            order = parallel.place(order, parallel.replicated(self._mesh))
            self._last_epoch, self._last_inputs = epoch, EpochInputs(self._pixels, self._labels, order)
        return self._last_inputs

    def positions(self, step: int) -> np.ndarray:
        """Return which examples of the training split `step` uses: int32 [batch]."""
        return parallel.fetch(self.inputs(step).order[step % self.steps_per_epoch])

    def abstract_inputs(self) -> EpochInputs:
        """Return the shapes, dtypes and shardings of `inputs`."""
        return abstract_inputs(self.size, self.steps_per_epoch, self.image_shape, self._batch_size, self._mesh)

    def streamed_inputs(self) -> tuple[()]:
        """Return an empty tuple: no array is copied to the devices at every step."""
        return ()

    def take(self, inputs: EpochInputs, step: jax.Array) -> Batch:
        """Return the batch of `step`, under `jax.jit`."""
        return take_batch(inputs, step, self.image_shape, self._mesh)

    def close(self) -> None:
        """Do nothing: there are no workers."""


def abstract_inputs(
    size: int, steps_per_epoch: int, image_shape: tuple[int, int, int], batch_size: int, mesh: Mesh
) -> EpochInputs:
    """Return the shapes, dtypes and shardings of the inputs for a dataset of `size` images."""
    pixels = jax.ShapeDtypeStruct((size, math.prod(image_shape)), np.uint8)
    labels = jax.ShapeDtypeStruct((size,), np.int32)
    order = jax.ShapeDtypeStruct((steps_per_epoch, batch_size), np.int32)
    shapes = EpochInputs(pixels, labels, order)  # type: ignore[arg-type]  # shapes in place of arrays
    return parallel.abstract(shapes, parallel.replicated(mesh))


def take_batch(inputs: EpochInputs, step: jax.Array, image_shape: tuple[int, int, int], mesh: Mesh) -> Batch:
    """Gather the batch of a step, under `jax.jit`.

    Args:
      inputs: the inputs for the epoch of `step`.
      step: int32, the global step.
      image_shape: (height, width, channels).
      mesh: the devices.

    Returns:
      The batch. Each device gathers its rows from its own copy of the dataset.
    """
    indices = inputs.order[step % inputs.order.shape[0]]
    indices = jax.lax.with_sharding_constraint(indices, parallel.batch_sharded(mesh))
    pixels = jnp.take(inputs.pixels, indices, axis=0, mode="clip")
    labels = jnp.take(inputs.labels, indices, axis=0, mode="clip")
    return Batch(pixels.reshape(-1, *image_shape), labels, indices)
