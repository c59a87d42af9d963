"""Descriptions of TPU slices: programs can be compiled for one or several of them without a TPU, but not run.

This needs libtpu (`pip install libtpu`). JAX itself keeps using the devices of this machine.
"""

import dataclasses
import os
import signal
import threading

import jax
from jax.experimental import topologies

from resnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """The specification of a TPU chip.

    Attributes:
      memory: bytes.
      peak_flops: floating-point operations per second in bfloat16.
    """

    memory: int
    peak_flops: float


# By `Device.device_kind`. Google Cloud, https://docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e.
CHIPS = {
    "TPU v4": Chip(32 * 2**30, 275e12),
    "TPU v5 lite": Chip(16 * 2**30, 197e12),
    "TPU v5": Chip(95 * 2**30, 459e12),
    "TPU v6 lite": Chip(32 * 2**30, 918e12),
}
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # Do not query the metadata server of a cloud, because that would block.
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # Required but without effect: the topology name decides.
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # No device is opened, so other processes do not interfere.
}


def describe(name: str, slices: int = 1) -> list[jax.Device]:
    """Return the devices of equal TPU slices, such as "v5e:2x4", "v5e:4x8", "v4:2x2x2", "v5p:2x2x1" or "v6e:2x4".

    Raises:
      UserError: if libtpu is not installed, or does not know the name.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    hangup_handler = signal.getsignal(signal.SIGHUP)
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=slices).devices
    except RuntimeError as error:  # JAX's own errors are subclasses of it.
        if "not installed" in str(error):
            raise UserError("compiling for a TPU on this machine needs libtpu. Run: pip install libtpu.") from None
        raise _unknown(name) from None
    if threading.current_thread() is threading.main_thread():
        # libtpu ignores SIGHUP, and so would every program that this process starts.
        signal.signal(signal.SIGHUP, hangup_handler)
    if devices[0].device_kind not in CHIPS:  # type: ignore[attr-defined]  # JAX's stub of the class is incomplete
        raise _unknown(name)
    # Programs compiled without a device can be written to JAX's compilation cache, but not read back.
    jax.config.update("jax_enable_compilation_cache", False)
    return devices


def chip(device: jax.Device) -> Chip | None:
    """Return the part of a chip that a device has: all, or half if two devices share it; None for an unknown chip."""
    whole = CHIPS.get(device.device_kind)
    if whole is None:
        return None
    devices_on_chip = sum(_position(neighbor) == _position(device) for neighbor in device.client.devices())
    return Chip(whole.memory // devices_on_chip, whole.peak_flops / devices_on_chip)


def slice_index(device: jax.Device) -> int:
    """Return the number of the slice that a TPU is in. Described devices of a single slice lack it, so theirs is 0."""
    return getattr(device, "slice_index", 0)


def _position(device: jax.Device) -> tuple[int, ...]:
    """Return where the chip of a device is. Chips of different slices can have the same coordinates."""
    return (slice_index(device), *device.coords)


def _unknown(name: str) -> UserError:
    return UserError(f"unknown TPU slice {name!r}. Write for example v5e:2x4, v5e:4x8, v4:2x2x2, v5p:2x2x1 or v6e:2x4.")
