"""Estimate of the memory that a compiled train step needs, compared with the free memory before the first step."""

import dataclasses
import math
import re

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel

BATCHES_IN_FLIGHT = 1 + parallel.CALLS_AHEAD  # batches on the devices at once: one in use, the others waiting
SIZE = re.compile(r"\b(\d+(?:\.\d+)?)([KMGT])\b")  # a size as XLA writes it, such as 15.99G
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class MemoryUsage:
    """Memory that a compiled program needs on each device, in bytes.

    Attributes:
      arguments: its arguments.
      outputs: its results, except those that are written over donated arguments.
      temporary: its intermediate values.
      code: the program itself, if it is in device memory.
    """

    arguments: int
    outputs: int
    temporary: int
    code: int

    @property
    def total(self) -> int:
        return self.arguments + self.outputs + self.temporary + self.code

    @classmethod
    def from_compiled(cls, compiled: jax.stages.Compiled) -> "MemoryUsage | None":
        """Return the memory usage of a compiled program, or None if the backend does not report it."""
        memory = compiled.memory_analysis()
        if memory is None:
            return None
        return cls(
            arguments=memory.argument_size_in_bytes,
            outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
            temporary=memory.temp_size_in_bytes,
            code=memory.generated_code_size_in_bytes,
        )


def compile_step(lowered: jax.stages.Lowered, config: ConfigDict, mesh: Mesh) -> jax.stages.Compiled:
    """Compile a train step.

    Raises:
      UserError: if the compiler reports that the step needs more memory than the devices have. XLA does so for TPUs.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        # The message names two sizes: the memory that the step needs, and the memory that the device has.
        sizes = [float(number) * UNITS[unit] for number, unit in SIZE.findall(str(error))]
        if "RESOURCE_EXHAUSTED" not in str(error) or len(sizes) < 2:
            raise
        needed, free = sizes[:2]
        raise _out_of_memory_error(needed, free, free / needed, config, mesh) from None


def check(compiled: jax.stages.Compiled, streamed_inputs, config: ConfigDict, mesh: Mesh) -> None:
    """Check that a compiled step fits into the memory that is free on each device.

    The state and resident data are on the devices already. In addition, a step needs temporary buffers, outputs that
    are not written over arguments, its code, and the batches that wait on the devices. If the backend does not report
    the memory usage, the step is accepted.

    Args:
      compiled: the step.
      streamed_inputs: a pytree of those abstract arguments that are sent to the devices for each step. All other
        arguments are on the devices already.
      config: the settings of the run, for the remedies in the error message.
      mesh: the devices.

    Raises:
      UserError: if the step does not fit.
    """
    usage = MemoryUsage.from_compiled(compiled)
    if usage is None:
        return
    constant = usage.outputs + usage.code
    # Most of the other memory that the step needs is proportional to the batch size.
    proportional = usage.temporary + BATCHES_IN_FLIGHT * _bytes_per_device(streamed_inputs)
    free = parallel.free_memory(mesh)
    if constant + proportional > free:
        raise _out_of_memory_error(constant + proportional, free, (free - constant) / proportional, config, mesh)


def _out_of_memory_error(
    needed: float, free: float, fitting_fraction: float, config: ConfigDict, mesh: Mesh
) -> UserError:
    """Return the error for a step that would fit with about `fitting_fraction` of the batch size."""
    remedies = []
    batch_size = _round_batch_size_down(
        int(fitting_fraction * config.batch_size), mesh.size * config.optimizer.accumulate_steps
    )
    if batch_size > 0:
        remedies.append(f"--config.batch_size={batch_size}")
    if not config.model.remat:
        remedies.append("--config.model.remat=True, which computes activations twice")
    if config.pretrain.method is None:
        remedies.append("--config.optimizer.accumulate_steps, which divides each batch into microbatches")
    return UserError(
        f"the train step needs {needed / 1e9:,.2f} GB on each device, but only {free / 1e9:,.2f} GB are free. "
        f"Try {', or '.join(remedies) or 'a smaller model'}."
    )


def _round_batch_size_down(batch_size: int, divisor: int) -> int:
    """Return the largest batch size up to `batch_size` that is `divisor` times a power of two, or 0 if there is none.

    Example:
      >>> _round_batch_size_down(100, divisor=8)
      64
    """
    quotient = batch_size // divisor
    if quotient <= 0:
        return 0
    return divisor * 2 ** (quotient.bit_length() - 1)


def _bytes_per_device(tree) -> int:
    """Return the bytes that a pytree of abstract arrays takes on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
