"""The resident feed: sets that fit in memory live on the device as uint8, and the step takes its batches there."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resnet_jax.data.feed import check_batch_size
from resnet_jax.data.host_batches import epoch_order
from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.runtime import parallel


class EpochInputs(NamedTuple):
    """What the steps of an epoch need, on the device: the whole set and the order of its examples.

    pixels: uint8 [n, height * width * channels], flat, for TPUs would lay out pictures so that each gather first copies
    the whole set; labels: int32 [n]; order: int32 [steps_per_epoch, batch].
    """

    pixels: jax.Array
    labels: jax.Array
    order: jax.Array


class ResidentFeed:
    """A training split on every device, shuffled anew each epoch as a function of (seed, epoch) alone.

    An epoch has as many steps as there are whole batches; the few examples left over are others each time.
    """

    supports_several_steps = True  # All steps of an epoch have the same inputs.
    crops_on_host = False
    max_prefetched = 0  # The step takes each batch itself.

    def __init__(self, examples: InMemoryExamples, batch_size: int, seed: int, mesh: Mesh):
        check_batch_size(batch_size, len(examples))
        self.image_shape = examples.images.shape[1:]
        self.size = len(examples)
        self.steps_per_epoch = len(examples) // batch_size
        self._batch_size, self._seed, self._mesh = batch_size, seed, mesh
        pixels = examples.images.reshape(len(examples), -1)
        self._pixels, self._labels = parallel.place((pixels, examples.labels), parallel.replicated(mesh))
        self._inputs: tuple[int, EpochInputs] | None = None  # of the epoch that was asked for last

    def inputs(self, step: int) -> EpochInputs:
        """What a step needs: the same for all steps of an epoch."""
        epoch = step // self.steps_per_epoch
        if self._inputs is None or self._inputs[0] != epoch:
            shape = self.steps_per_epoch, self._batch_size
            order = epoch_order(self._seed, epoch, self.size)[: math.prod(shape)].astype(np.int32).reshape(shape)
            order = parallel.place(order, parallel.replicated(self._mesh))
            self._inputs = epoch, EpochInputs(self._pixels, self._labels, order)
        return self._inputs[1]

    def positions(self, step: int) -> np.ndarray:
        """Which examples of the training split a step is given: int32 [batch]."""
        return parallel.fetch(self.inputs(step).order[step % self.steps_per_epoch])

    def abstract_inputs(self) -> EpochInputs:
        """Shapes, types and places of what `inputs` gives."""
        return abstract_inputs(self.size, self.image_shape, self._batch_size, self._mesh)

    def arriving_inputs(self) -> tuple[()]:
        """Return nothing: the dataset is on the devices already."""
        return ()

    def take(self, inputs: EpochInputs, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images and labels of a step, inside a compiled function."""
        return take_batch(inputs, step, self.image_shape, self._mesh)

    def close(self) -> None:
        """There is nothing to end."""


def abstract_inputs(size: int, image_shape: tuple[int, int, int], batch_size: int, mesh: Mesh) -> EpochInputs:
    """Shapes, types and places of the inputs of an epoch of a set of `size` pictures."""
    shapes = EpochInputs(
        pixels=jax.ShapeDtypeStruct((size, math.prod(image_shape)), np.uint8),
        labels=jax.ShapeDtypeStruct((size,), np.int32),
        order=jax.ShapeDtypeStruct((size // batch_size, batch_size), np.int32),
    )
    return parallel.abstract(shapes, parallel.replicated(mesh))


def take_batch(
    inputs: EpochInputs, step: jax.Array, image_shape: tuple[int, int, int], mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """The batch of the global `step`, inside a compiled function.

    Args:
      inputs: of the epoch that `step` lies in.
      step: int32.
      image_shape: (height, width, channels).
      mesh: the devices.

    Returns:
      images uint8 [batch, height, width, channels] and labels int32 [batch], sharded over `data`: each device gathers
      its own part from its own copy of the set.
    """
    indices = inputs.order[step % inputs.order.shape[0]]
    indices = jax.lax.with_sharding_constraint(indices, parallel.batch_sharded(mesh))
    pixels = jnp.take(inputs.pixels, indices, axis=0, mode="clip")
    return pixels.reshape(-1, *image_shape), jnp.take(inputs.labels, indices, axis=0, mode="clip")
