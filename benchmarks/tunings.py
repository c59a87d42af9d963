"""What `resnet_jax/runtime/cpu_tuning.py` does for training on a CPU, and parts of it.

One of them is called, by name, before JAX is imported.
"""

from resnet_jax.runtime import cpu_tuning

TUNED = ("tuned", "without_ynnpack")  # of which `cpu.is_tuned` holds


def tuned() -> None:
    """As a run is."""
    cpu_tuning.tune()


def without_ynnpack() -> None:
    """All is XLA's own."""
    cpu_tuning.tune()
    cpu_tuning.compiler_options = lambda platform: {cpu_tuning.YNNPACK: ""}


def keeping_memory() -> None:
    """YNNPACK takes what XLA hands it by default."""
    cpu_tuning._keep_memory()


def untuned() -> None:
    """That of `--notune_cpu`."""
