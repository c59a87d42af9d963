"""Device mesh, shardings, and transfers between host and devices."""

import collections
import hashlib
import os
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_jax.errors import UserError, first_line
from resnet_jax.runtime import cpu_tuning, host_memory, tpu_topology

CALLS_AHEAD = 4  # the maximum number of dispatched calls that wait while the devices execute another one


def make_mesh(devices=None) -> Mesh:
    """Return a mesh with one axis, `data`, over `devices` (default: every device of every process).

    With several TPU slices, the devices of a slice are next to each other, so consecutive examples of a batch are in
    the same slice.

    Raises:
      UserError: as `all_devices` does.

    Example:
      >>> dict(make_mesh(jax.devices()[:1]).shape)
      {'data': 1}
    """
    available = all_devices()  # Even to compile for devices that are only described, JAX needs one that exists.
    devices = np.asarray(available if devices is None else devices)
    slices = num_slices(devices)
    if slices > 1:
        devices = mesh_utils.create_hybrid_device_mesh((devices.size // slices,), (slices,), devices)
    return Mesh(devices.reshape(-1), ("data",), axis_types=(AxisType.Auto,))


def num_slices(devices: Iterable[jax.Device]) -> int:
    """Return the number of TPU slices to which these devices belong; 1 for other devices.

    GPUs also have a `slice_index`, one per machine.
    """
    return len({tpu_topology.slice_index(device) if device.platform == "tpu" else 0 for device in devices})


def all_devices() -> list[jax.Device]:
    """Return the devices of all processes. Use this before anything else that needs a device.

    Raises:
      UserError: if JAX cannot use any, usually because the environment variable JAX_PLATFORMS, or in older versions of
        JAX the variable JAX_PLATFORM_NAME, names others.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # An AssertionError, without a message, if there is no NVIDIA GPU.
        reason = first_line(error) if str(error) else "no such device on this machine"
        variable, value = "JAX_PLATFORMS", jax.config.jax_platforms or ""  # type: ignore[attr-defined]  # set at run time
        if not value and "JAX_PLATFORM_NAME" in os.environ:
            variable, value = "JAX_PLATFORM_NAME", os.environ["JAX_PLATFORM_NAME"]
        raise UserError(
            f"JAX finds no device to use ({variable}={value}: {reason}). Unset {variable} to use what this machine "
            f"has, or set {variable}=cpu."
        ) from error


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding for parameters, optimizer state and resident datasets: each device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Return the sharding for batches: each device holds its share of the leading axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def jit(function: Callable, mesh: Mesh, out_shardings: NamedSharding | None = None, **kwargs) -> jax.stages.Wrapped:
    """Return a function wrapped in `jax.jit` for the devices of a mesh.

    Args:
      function: the function to compile.
      mesh: the devices.
      out_shardings: the sharding of the results; None: they are replicated on all devices.
      **kwargs: further arguments of `jax.jit`.
    """
    options = cpu_tuning.compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(function, out_shardings=out_shardings or replicated(mesh), compiler_options=options, **kwargs)


def place(tree, sharding: NamedSharding):
    """Put host arrays, equal in every process, on the devices under `sharding`. Nothing is communicated.

    Example:
      >>> array = place(np.arange(3), replicated(make_mesh()))
      >>> fetch(array).tolist()
      [0, 1, 2]
    """

    def place_leaf(array):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place_leaf, tree)


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Return the indices of the rows of a batch that the devices of this process hold, in increasing order."""
    shards = batch_sharded(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[shard] for shard in shards]))


def place_rows(tree, mesh: Mesh, batch_size: int):
    """Put this process's rows of a batch on its devices, as part of sharded global arrays [batch_size, ...].

    Nothing is communicated. The rows must be those of `local_rows`, in the same order.
    """
    sharding = batch_sharded(mesh)

    def place_leaf(rows):
        return jax.make_array_from_process_local_data(sharding, np.asarray(rows), (batch_size, *rows.shape[1:]))

    return jax.tree.map(place_leaf, tree)


def abstract(tree, sharding: NamedSharding):
    """Return the shapes, dtypes and `sharding` of a pytree, for example as the target of restoring a checkpoint."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def fetch(tree):
    """Copy device arrays to the host. The training loop always uses this function, so that a test can count transfers.

    The results are copies: on a CPU `jax.device_get` returns views, and a buffer with a view cannot be donated to the
    next step.
    """
    return jax.tree.map(np.array, jax.device_get(tree))


def free_memory(mesh: Mesh) -> int:
    """Return the free bytes of the fullest device of all processes.

    Simulated CPU devices share the free memory of the machine equally. Devices from `tpu_topology.describe` count as
    empty.
    """

    def free_bytes(device: jax.Device) -> int:
        try:
            memory = device.memory_stats()  # None if the device shares the host's memory.
        except jax.errors.JaxRuntimeError:  # The device is only a description.
            return tpu_topology.chip(device).memory  # type: ignore[union-attr]  # only known chips are described
        if memory is None:
            return host_memory.available() // len(mesh.local_devices)
        return memory["bytes_limit"] - memory["bytes_in_use"]

    free = min(map(free_bytes, mesh.local_devices))
    if jax.process_count() == 1:
        return free
    # In MiB, because JAX uses 32-bit integers.
    return int(multihost_utils.process_allgather(np.array(free // 2**20)).min()) * 2**20


def sum_over_processes(count: int) -> int:
    """Return the sum of the counts of all processes. Every process must call this."""
    return int(multihost_utils.process_allgather(np.array(count)).sum())


def count_distinct(names: Collection[str]) -> int:
    """Return how many distinct names all processes have together. Every process must call this."""
    most = int(multihost_utils.process_allgather(np.array(len(names))).max())
    if not most:
        return 0
    digests = np.zeros((most, 2), np.uint32)  # All processes send arrays of the same shape; unused rows are 0.
    for row, name in zip(digests, names, strict=False):
        row[:] = np.frombuffer(hashlib.sha256(os.fsencode(name)).digest()[: row.nbytes], np.uint32)
    gathered = multihost_utils.process_allgather(digests).reshape(-1, 2)
    return int(np.unique(gathered, axis=0).any(axis=1).sum())


def wait_for_all(name: str) -> None:
    """Wait until all processes have called this. `name` identifies the call, and must be equal in all processes."""
    multihost_utils.sync_global_devices(name)


class Pace:
    """Keeps the host a few calls ahead of the devices, but no more, because queued batches take device memory.

    It waits rarely, and then for several calls at once: if the devices are the cores of this machine, every wake-up of
    the host takes time from them.

    Args:
      calls_ahead: the maximum number of dispatched calls that wait while the devices execute another one.
    """

    def __init__(self, calls_ahead: int = CALLS_AHEAD):
        self._calls_ahead = calls_ahead
        self._unfinished: collections.deque[Any] = collections.deque()

    def __call__(self, result) -> None:
        """Register the result of a call, and wait if the host is too far ahead.

        Results count as unfinished until they have been waited for. If there are more than `calls_ahead` of them, wait
        until at most half of that number are left.
        """
        self._unfinished.append(result)
        if len(self._unfinished) > self._calls_ahead:
            while len(self._unfinished) > self._calls_ahead // 2:
                last_to_wait_for = self._unfinished.popleft()
            jax.block_until_ready(last_to_wait_for)


def pace_of_independent_calls(mesh: Mesh) -> Pace:
    """Return the pace for calls that do not use each other's results.

    On CPU, such calls would run at the same time, and each would take memory, so the host waits for each of them.
    """
    return Pace(0 if mesh.devices.flat[0].platform == "cpu" else CALLS_AHEAD)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate_steps: int = 1) -> None:
    """Check that every device gets the same number of examples in each microbatch.

    Raises:
      UserError: if the batch size is not divisible by the number of devices times `accumulate_steps`. The
        message suggests the nearest divisible size.
    """
    divisor = mesh.size * accumulate_steps
    if batch_size % divisor:
        divisor_name = f"the number of devices ({mesh.size})"
        if accumulate_steps > 1:
            divisor_name = f"the number of devices times optimizer.accumulate_steps ({mesh.size} x {accumulate_steps})"
        nearest = max(divisor, round(batch_size / divisor) * divisor)
        raise UserError(
            f"batch_size={batch_size} is not divisible by {divisor_name}. Try --config.batch_size={nearest}."
        )


def is_main_process() -> bool:
    """Return whether this is the process that writes files and logs, and prints to the terminal.

    A process that has not joined others does not touch the devices here: a study leaves them to its runs.
    """
    return not jax.distributed.is_initialized() or jax.process_index() == 0
