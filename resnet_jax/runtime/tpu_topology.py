"""TPU slices that are described, but not there: programs can be compiled for them, and not run.

It takes libtpu (`pip install libtpu`), and no TPU. JAX itself stays on the devices at hand.
"""

import dataclasses
import os

import jax
from jax.experimental import topologies

from resnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """memory: bytes; peak_flops: floating-point operations a second, in bfloat16."""

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
    "TPU_SKIP_MDS_QUERY": "1",  # no questions to a cloud's metadata server, which would be waited for
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # of a machine that there is not: the name of the topology decides
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no device is opened, so no other process is in the way
}


def describe(name: str) -> list[jax.Device]:
    """The devices of the slice `name`: "v5e:2x4", "v5e:4x8", "v4:2x2x2", "v5p:2x2x1", "v6e:2x4", ...

    Raises:
      UserError: without libtpu, and for a name that it does not know.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except RuntimeError as error:  # Also of JAX's own errors, which are its subclasses.
        if "not installed" in str(error):
            raise UserError("compiling for a TPU without having one takes libtpu: pip install libtpu") from None
        raise _unknown(name) from None
    if devices[0].device_kind not in CHIPS:  # type: ignore[attr-defined]  # JAX's stub of the class is incomplete
        raise _unknown(name)
    # What is compiled without a device can be written to JAX's compilation cache, but not read back.
    jax.config.update("jax_enable_compilation_cache", False)
    return devices


def chip(device: jax.Device) -> Chip | None:
    """What is specified of the chip that `device` is, or is a part of; None where that is not known."""
    found = CHIPS.get(device.device_kind)
    if found is None:
        return None
    parts = sum(other.coords == device.coords for other in device.client.devices())
    return Chip(found.memory // parts, found.peak_flops / parts)


def _unknown(name: str) -> UserError:
    return UserError(f"there is no TPU slice {name!r}: write v5e:2x4, v5e:4x8, v4:2x2x2, v5p:2x2x1 or v6e:2x4")
