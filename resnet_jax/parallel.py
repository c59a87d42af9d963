"""Devices and processes: the mesh, the two shardings we use, and the start of a multi-host run."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_jax.errors import UserError


def start() -> None:
    """Joins the processes of a TPU pod or a Slurm job, as JAX detects them; alone on one machine it does nothing.

    Must come before anything that touches a device.
    """
    try:
        jax.distributed.initialize()
    except ValueError as error:
        if "coordinator_address" not in str(error):  # JAX's way to say that it found no cluster.
            raise


def make_mesh(devices=None) -> Mesh:
    """All `devices` (default: every device of every process) along one axis, `data`."""
    devices = np.asarray(jax.devices() if devices is None else devices)
    return Mesh(devices.reshape(-1), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: parameters, optimizer state, a resident data set."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Each device holds its part of the leading axis: a batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def place(tree, sharding: NamedSharding):
    """Host arrays, the same in every process, as global device arrays under `sharding`; nothing is communicated."""

    def place_leaf(array):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place_leaf, tree)


def abstract(tree, sharding: NamedSharding):
    """Shapes and types of a pytree under `sharding`: where a checkpoint's arrays are to live."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def fetch(tree):
    """Device arrays as host arrays: the one way back, so that a test can count how often the loop waits for it.

    They are copies: on a CPU `jax.device_get` gives views, and a buffer with a view cannot be donated to the next step.
    """
    return jax.tree.map(np.array, jax.device_get(tree))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises `UserError` unless every device gets the same number of examples."""
    if batch_size % mesh.size:
        nearest = max(mesh.size, round(batch_size / mesh.size) * mesh.size)
        raise UserError(
            f"batch_size {batch_size} is not divisible by the {mesh.size} devices: try --config.batch_size={nearest}"
        )


def is_main_process() -> bool:
    """True in the one process that writes logs and talks to the user."""
    return jax.process_index() == 0
