"""Faster training on CPUs, by two changes for the whole process. `tune` makes them before JAX is imported.

- Memory: when large buffers are freed, glibc returns them to the system, and the next step gets them back page by page.
  We make glibc keep them. A step then causes a fraction of the page faults; results are the same, and the process takes
  more memory.
- YNNPACK: XLA delegates some operations to this library, by default reductions, matrix products and convolutions.
  YNNPACK is slow at gradients with respect to convolution kernels. Such a gradient is itself a convolution, with a
  window as large as the image. We make XLA compile products and convolutions itself; it still delegates reductions and,
  in addition, elementwise operations. Results differ in the last bits from those without this change. (In jaxlib
  0.10.2, YNNPACK is faulty for many matrix-vector products, with the default settings too: jax-ml/jax#39103. No model
  here has such products.)

`benchmarks/README.md` shows the gains.
"""

import ctypes
import glob
import importlib.util
import os
import pkgutil
import sys

# Parameters of glibc's `mallopt`, with the numbers of its malloc.h, and the values that we set.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
KEEP_MEMORY = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 * 2**20}

YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
FUSIONS = "LIBRARY_FUSION_TYPE_ELTWISE,LIBRARY_FUSION_TYPE_REDUCE"

# Packages that add devices other than the CPU to JAX, and their device files. A Linux system with such a device has at
# least one of these files. TPU_FILES are those of libtpu's drivers. NVIDIA_FILES are those that JAX itself looks for
# (`jax._src.hardware_utils`). JAX also uses any other package in the namespace `jax_plugins`.
TPU_FILES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
NVIDIA_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
DEVICE_FILES = {
    "libtpu": TPU_FILES,
    "jax_plugins.xla_cuda12": NVIDIA_FILES,
    "jax_plugins.xla_cuda13": NVIDIA_FILES,
}

_is_tuned = False
_other_devices: str | None = None  # why `tune` expected a device other than the CPU


def tune() -> None:
    """Make training on the CPU faster, unless JAX might use a device other than the CPU.

    A package for other devices, such as libtpu, prevents tuning only where such a device may exist. Call this before
    JAX is imported. It applies to the whole process: glibc has one allocator, and training and evaluation are compiled
    alike.
    """
    global _is_tuned, _other_devices
    _other_devices = _expect_other_devices()
    if _other_devices is None and _keep_memory():
        _is_tuned = True


def is_tuned() -> bool:
    """Return whether `tune` has taken effect in this process."""
    return _is_tuned


def log_line(platform: str) -> str | None:
    """Return what a run on a platform, such as "cpu" or "tpu", logs about the tuning; None: nothing."""
    if _is_tuned:
        return (
            "Tuned for the CPU: freed memory is kept and XLA's own convolutions are used. --notune_cpu turns this off."
        )
    if platform == "cpu" and _other_devices:
        return (
            f"Not tuned for the CPU, because JAX might have used another device ({_other_devices}). "
            "To train faster, set JAX_PLATFORMS=cpu in the environment."
        )
    return None


def release_memory() -> None:
    """Return freed memory to the system, so that the system counts it as free."""
    if _is_tuned:
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def compiler_options(platform: str) -> dict[str, str]:
    """Return the XLA options for compiling a model for a platform, such as "cpu" or "tpu"."""
    if not _is_tuned or platform != "cpu":
        return {}
    return {YNNPACK: FUSIONS}


def _expect_other_devices() -> str | None:
    """Return why JAX might use a device other than the CPU; None if it cannot."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return None if platforms == "cpu" else f"JAX_PLATFORMS is {platforms}"
    usable = [package for package in _device_packages() if _may_have_device(package)]
    return f"installed: {', '.join(usable)}" if usable else None


def _device_packages() -> list[str]:
    """Return the installed packages that add devices other than the CPU to JAX."""
    libtpu = ["libtpu"] if importlib.util.find_spec("libtpu") else []
    namespace = importlib.util.find_spec("jax_plugins")
    directories = namespace.submodule_search_locations if namespace else None
    return libtpu + [module.name for module in pkgutil.iter_modules(directories or [], "jax_plugins.")]


def _may_have_device(package: str) -> bool:
    """Return False on Linux for a known package without any of its device files, and True otherwise."""
    if sys.platform != "linux" or package not in DEVICE_FILES:
        return True
    return any(glob.glob(pattern) for pattern in DEVICE_FILES[package])


def _keep_memory() -> bool:
    """Make glibc keep freed memory. Return False if the system has another C library."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    accepted = [mallopt(parameter, value) for parameter, value in KEEP_MEMORY.items()]
    return all(accepted)
