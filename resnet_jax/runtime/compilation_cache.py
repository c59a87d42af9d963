"""JAX's persistent compilation cache in the user's cache directory, so that the next start compiles less."""

import glob
import hashlib
import platform
from typing import Any

import jax

from resnet_jax.runtime import cpu_info, user_cache

MAX_BYTES = 2 * 10**9  # of all programs cached for one type of processor
MIN_COMPILE_SECONDS = 0.1  # Programs that compile faster are not cached.


def enable() -> None:
    """Enable JAX's compilation cache, unless the user has configured it.

    JAX_COMPILATION_CACHE_DIR chooses another directory, and JAX_ENABLE_COMPILATION_CACHE=0 disables the cache.
    """
    settings: Any = jax.config  # JAX adds its settings to this object at run time.
    if settings.jax_compilation_cache_dir is not None or not settings.jax_enable_compilation_cache:
        return
    directory = user_cache.directory("compiled")
    # When JAX deletes old programs, it treats the whole path of the cache as a pattern.
    if directory is None or glob.escape(str(directory)) != str(directory):
        return
    # Many machines may share a home directory, and a program compiled for one CPU may crash on another.
    jax.config.update("jax_compilation_cache_dir", str(directory / _processor_id()))
    # With a size limit JAX also locks the directory, so that no process reads a file that another is still writing.
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def _processor_id() -> str:
    """Return an identifier of the kind of processor. On Linux, equal identifiers mean equal instruction sets."""
    instruction_set = next(
        (line for line in cpu_info.read_lines() if line.startswith(("flags", "Features"))),  # x86, ARM
        "",
    )
    return hashlib.sha256((platform.machine() + instruction_set).encode()).hexdigest()[:16]
