"""What `resnet_jax/cpu.py` does for training on a CPU, and parts of it; for benchmarks that compare them.

One of them is called, by name, before JAX is imported.
"""

from resnet_jax import cpu

TUNED = ("tuned", "without_ynnpack")  # of which `cpu.is_tuned` holds


def tuned() -> None:
    """As a run is."""
    cpu.tune()


def without_ynnpack() -> None:
    """All is XLA's own."""
    cpu.tune()
    cpu.compiler_options = lambda platform: {cpu.YNNPACK: ""}


def keeping_memory() -> None:
    """YNNPACK takes what XLA hands it by default."""
    cpu._keep_memory()


def untuned() -> None:
    """That of `--notune_cpu`."""
