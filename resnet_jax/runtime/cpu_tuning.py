"""Whether training on a CPU is to be made quicker, and what that takes.

- glibc gives large buffers back to the system when they are freed, and gets them anew, page by page, in the next step.
  Told to keep them, a step makes a fraction of the page faults, with the same numbers; the process takes more memory.
- XLA hands parts of a program to YNNPACK, a library. By default these are sums over arrays, products of matrices and
  convolutions, and it is slow at the gradients of the latter to kernels, for their window is as large as the picture.
  Told to, XLA keeps products and convolutions, and hands over what is elementwise instead. Numbers differ in their last
  bits. (jaxlib 0.10.2 has a fault there, by default too: jax-ml/jax#39103, for many products of a matrix with a vector,
  which no network here has.)

`benchmarks/README.md` has what they gain.
"""

import ctypes
import importlib.util
import os
import sys

# The names and numbers of glibc's malloc.h, and of its parameters.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
KEEP_MEMORY = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 * 2**20}

YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
FUSIONS = "LIBRARY_FUSION_TYPE_ELTWISE,LIBRARY_FUSION_TYPE_REDUCE"

PLUGINS = ("libtpu", "jax_plugins")  # packages that give JAX another device than the CPU

_is_tuned = False


def tune() -> None:
    """Makes training on the CPU quicker, unless JAX may find another device; to be called before JAX is imported.

    It is for the whole process: glibc has one memory, and all that is trained and evaluated is compiled alike.
    """
    global _is_tuned
    if _is_alone() and _keep_memory():
        _is_tuned = True


def is_tuned() -> bool:
    return _is_tuned


def give_back() -> None:
    """Gives back to the system what is kept and not in use, for its free memory to be asked."""
    if _is_tuned:
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def compiler_options(platform: str) -> dict[str, str]:
    """What XLA is asked for when it compiles a network for the devices of a platform, such as "cpu" or "tpu"."""
    if not _is_tuned or platform != "cpu":
        return {}
    return {YNNPACK: FUSIONS}


def _is_alone() -> bool:
    """Whether the CPU is what JAX will run on."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return platforms == "cpu" or not (platforms or any(map(importlib.util.find_spec, PLUGINS)))


def _keep_memory() -> bool:
    """Tells glibc; False where the system has another C library."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    taken = [mallopt(parameter, value) for parameter, value in KEEP_MEMORY.items()]
    return all(taken)
