"""Out of memory, foreseen: what a compiled train step takes, against what the devices have left."""

import dataclasses
import math
import re

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.errors import UserError
from resnet_jax.runtime import parallel

BATCHES_ON_THE_WAY = 1 + parallel.CALLS_AHEAD
SIZE = re.compile(r"\b(\d+(?:\.\d+)?)([KMGT])\b")  # as XLA writes it: 15.99G
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a compiled program takes on each device, in bytes.

    Attributes:
      arguments: what it is given.
      outputs: what it returns, without what is written over its arguments.
      temporary: what it needs in between.
      code: the program itself, where that lives on the device.
    """

    arguments: int
    outputs: int
    temporary: int
    code: int

    @property
    def total(self) -> int:
        return self.arguments + self.outputs + self.temporary + self.code

    @classmethod
    def of(cls, compiled: jax.stages.Compiled) -> "Usage | None":
        """None where the backend does not tell."""
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
    """Compiles a train step; raises `UserError` where the compiler finds that it takes more memory than there is."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        # XLA for TPUs compiles nothing that does not fit, and names two sizes: what is needed, and what is there.
        sizes = [float(number) * UNITS[unit] for number, unit in SIZE.findall(str(error))]
        if "RESOURCE_EXHAUSTED" not in str(error) or len(sizes) < 2:
            raise
        needed, free = sizes[:2]
        raise _too_much(needed, free, free / needed, config, mesh) from None


def check(compiled: jax.stages.Compiled, arriving, config: ConfigDict, mesh: Mesh) -> None:
    """Raises `UserError` unless the devices have room for what a compiled step takes besides what they hold already.

    That is its temporary buffers, outputs that are not written over arguments, and the batches on the way. A backend
    that does not tell what a program takes is trusted.

    Args:
      compiled: the step.
      arriving: abstract arguments that come to the devices step by step; all others are there.
      config: settings of the run.
      mesh: the devices.
    """
    usage = Usage.of(compiled)
    if usage is None:
        return
    fixed = usage.outputs + usage.code
    growing = usage.temporary + BATCHES_ON_THE_WAY * _bytes_a_device(arriving)
    free = parallel.free_memory(mesh)
    if fixed + growing > free:
        raise _too_much(fixed + growing, free, (free - fixed) / growing, config, mesh)


def _too_much(needed: float, free: float, share: float, config: ConfigDict, mesh: Mesh) -> UserError:
    """The error for a step that would fit with about `share` of the batch; most of what it takes grows with that."""
    ways = []
    fitting = _smaller(int(share * config.batch_size), mesh.size * config.optimizer.accumulate_steps)
    if fitting:
        ways.append(f"--config.batch_size={fitting}")
    if not config.model.remat:
        ways.append("--config.model.remat=True, which computes activations twice")
    ways.append("--config.optimizer.accumulate_steps, which takes a batch in parts")
    return UserError(
        f"the train step takes {needed / 1e9:,.2f} GB on each device, and {free / 1e9:,.2f} GB are free there: try "
        + ", or ".join(ways)
    )


def _smaller(batch_size: int, devices: int) -> int:
    """The largest batch, of as many examples a device as a power of two, that is not larger; 0: there is none."""
    each = batch_size // devices
    return devices * 2 ** (each.bit_length() - 1) if each > 0 else 0


def _bytes_a_device(tree) -> int:
    """Of abstract arrays, on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
