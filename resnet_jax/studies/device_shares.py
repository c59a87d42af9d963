"""The share of the devices that each of several processes gets when they train at the same time."""

import functools
import os
import subprocess
import sys
from collections.abc import Mapping

from resnet_jax.errors import UserError

SIMULATED_DEVICES = "--xla_force_host_platform_device_count"


def device_share(job: int, jobs: int) -> dict[str, str]:
    """Return the environment variables that give a process its share of the devices.

    A single process gets all devices. On GPUs, the devices are divided evenly; on TPUs, each process gets one chip; on
    CPUs, all processes share the cores, and simulated devices are divided evenly.

    Args:
      job: the number of the process, from 0.
      jobs: how many processes there are.

    Raises:
      UserError: if there are fewer GPUs or TPU chips than processes.
    """
    if jobs == 1:
        return {}
    platform, count = _find_devices()
    return share_environment(job, jobs, platform, count, os.environ)


def share_environment(job: int, jobs: int, platform: str, count: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for a share of `count` devices of a platform; see `device_share`.

    If the number of devices is not a multiple of the number of processes, the remaining devices are not used.

    Example:
      >>> share_environment(1, 2, "gpu", 4, {})
      {'CUDA_VISIBLE_DEVICES': '2,3'}
      >>> share_environment(1, 2, "gpu", 2, {"CUDA_VISIBLE_DEVICES": "5,7"})
      {'CUDA_VISIBLE_DEVICES': '7'}
    """
    if platform == "cpu":
        if count == 1:
            return {}
        flags = environment.get("XLA_FLAGS", "")
        return {"XLA_FLAGS": f"{flags} {SIMULATED_DEVICES}={max(1, count // jobs)}".strip()}  # The last flag counts.
    if count < jobs:
        raise UserError(f"--jobs={jobs} needs {jobs} devices, but there are {count}. Choose fewer jobs.")
    if platform == "tpu":
        one_chip = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return {"TPU_VISIBLE_CHIPS": str(job), **one_chip}
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    per_job = count // jobs
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[job * per_job : (job + 1) * per_job])}


@functools.cache
def _find_devices() -> tuple[str, int]:
    """Return the platform of the devices and their number.

    A child process looks for them, because JAX would reserve GPU memory for this process.
    """
    program = "import jax; print(jax.default_backend(), jax.local_device_count())"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8")
    if finished.returncode:
        reason = finished.stderr.strip().rpartition("\n")[2]
        raise UserError(f"JAX finds no device to use ({reason}). Unset JAX_PLATFORMS, or set JAX_PLATFORMS=cpu.")
    platform, count = finished.stdout.split()
    return platform, int(count)
