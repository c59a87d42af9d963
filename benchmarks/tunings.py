"""What `resnet_jax/cpu.py` does for training on a CPU, and each time one thing less; for benchmarks that compare them.

One of them is called, by name, before JAX is imported.
"""

from resnet_jax import cpu


def tuned() -> None:
    """As a run is."""
    cpu.tune()


def keeping_memory() -> None:
    """YNNPACK takes what XLA hands to it unasked."""
    cpu._keep_memory()


def untuned() -> None:
    """That of `--notune_cpu`."""
