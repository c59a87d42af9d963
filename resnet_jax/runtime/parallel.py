"""Devices: the mesh, the two shardings we use, and the ways there and back."""

import collections
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_jax.errors import UserError
from resnet_jax.runtime import cpu_tuning, host_memory, tpu_topology

CALLS_AHEAD = 4  # at most, of the host before the devices


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


def jit(function: Callable, mesh: Mesh, **settings) -> jax.stages.Wrapped:
    """`jax.jit` for the devices of a mesh, with results that are whole on each; `settings` are others of `jax.jit`."""
    options = cpu_tuning.compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(function, out_shardings=replicated(mesh), compiler_options=options, **settings)


def place(tree, sharding: NamedSharding):
    """Host arrays, the same in every process, as global device arrays under `sharding`; nothing is communicated."""

    def place_leaf(array):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place_leaf, tree)


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Which rows of a batch the devices of this process hold, in increasing order."""
    parts = batch_sharded(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[part] for part in parts]))


def place_rows(tree, mesh: Mesh, batch_size: int):
    """Host arrays of this process's rows as global arrays [batch_size, ...], sharded; nothing is communicated."""
    sharding = batch_sharded(mesh)

    def place_leaf(rows):
        return jax.make_array_from_process_local_data(sharding, np.asarray(rows), (batch_size, *rows.shape[1:]))

    return jax.tree.map(place_leaf, tree)


def abstract(tree, sharding: NamedSharding):
    """Shapes and types of a pytree under `sharding`: where a checkpoint's arrays are to live."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def fetch(tree):
    """Device arrays as host arrays: the one way back, so that a test can count how often the loop waits for it.

    They are copies: on a CPU `jax.device_get` gives views, and a buffer with a view cannot be donated to the next step.
    """
    return jax.tree.map(np.array, jax.device_get(tree))


def free_memory(mesh: Mesh) -> int:
    """Bytes that are free on the fullest device, over all processes; the cores of a CPU count as sharing its memory.

    A device that is only described, by `topology.describe`, is empty.
    """

    def of(device: jax.Device) -> int:
        try:
            memory = device.memory_stats()  # None where the device shares the host's.
        except jax.errors.JaxRuntimeError:  # It is only described.
            return tpu_topology.chip(device).memory  # type: ignore[union-attr]  # only known chips are described
        if memory is None:
            return host_memory.available() // len(mesh.local_devices)
        return memory["bytes_limit"] - memory["bytes_in_use"]

    free = min(map(of, mesh.local_devices))
    if jax.process_count() == 1:
        return free
    # In MiB, for JAX takes integers of 32 bits.
    return int(multihost_utils.process_allgather(np.array(free // 2**20)).min()) * 2**20


def sum_over_processes(count: int) -> int:
    """The sum of what each process counts; all of them must ask."""
    return int(multihost_utils.process_allgather(np.array(count)).sum())


def wait_for_all(what: str) -> None:
    """Returns when all processes have come here; `what` names the place, the same in all of them."""
    multihost_utils.sync_global_devices(what)


class Pace:
    """Keeps the host a little ahead of the devices, but not far: batches that wait for their turn take memory there.

    It waits seldom, and then for several calls: where the devices are this machine's cores, it takes their time
    whenever it wakes.
    """

    def __init__(self):
        self._unfinished: collections.deque[Any] = collections.deque()

    def __call__(self, result) -> None:
        """Takes what a call has returned; waits, if over `CALLS_AHEAD` may be unfinished, until half of that are."""
        self._unfinished.append(result)
        if len(self._unfinished) > CALLS_AHEAD:
            while len(self._unfinished) > CALLS_AHEAD // 2:
                newest = self._unfinished.popleft()
            jax.block_until_ready(newest)


def check_batch_size(batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raises `UserError` unless every device gets the same number of examples in each of the parts of a batch."""
    divisor = mesh.size * parts
    if batch_size % divisor:
        by = f"the {mesh.size} devices"
        if parts > 1:
            by = f"devices times optimizer.accumulate_steps ({mesh.size} x {parts})"
        nearest = max(divisor, round(batch_size / divisor) * divisor)
        raise UserError(f"batch_size {batch_size} is not divisible by {by}: try --config.batch_size={nearest}")


def is_main_process() -> bool:
    """True in the one process that writes logs and talks to the user."""
    return jax.process_index() == 0
