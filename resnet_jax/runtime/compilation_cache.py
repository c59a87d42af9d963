"""Compiled programs, kept in the user's cache directory: the second start of a run need not compile them again."""

import contextlib
import hashlib
import pathlib
import platform
from typing import Any

import jax

from resnet_jax.runtime import user_cache

LARGEST = 2 * 2**30  # bytes, of all programs together
WORTH_KEEPING = 0.1  # seconds that a program took to compile


def use() -> None:
    """Has JAX keep what it compiles, unless the user has named a directory for that himself.

    With JAX_COMPILATION_CACHE_DIR he does; with JAX_ENABLE_COMPILATION_CACHE=0 there is none.
    """
    settings: Any = jax.config  # JAX adds its settings to this object at run time.
    if settings.jax_compilation_cache_dir is not None or not settings.jax_enable_compilation_cache:
        return
    place = user_cache.directory("compiled")
    if place is None:
        return
    # A home may be that of many machines, and what is compiled for one CPU may stop on an instruction of another.
    jax.config.update("jax_compilation_cache_dir", str(place / _processor()))
    # A limit also has JAX lock the directory, so that no process reads what another has half written.
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)


def _processor() -> str:
    """Names this machine's kind of processor: on Linux, machines of the same name understand the same instructions."""
    described = platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        described += next((line for line in lines if line.startswith(("flags", "Features"))), "")  # of x86, of ARM
    return hashlib.sha256(described.encode()).hexdigest()[:16]
