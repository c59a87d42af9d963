"""The CPU tuning of a run (`resnet_jax/runtime/cpu_tuning.py`), parts of it, and none.

A benchmark calls one of these functions by name, before JAX is imported.
"""

from resnet_jax.runtime import cpu_tuning

TUNED = ("tuned", "without_ynnpack")  # the tunings for which `cpu_tuning.is_tuned` returns True


def tuned() -> None:
    """Tune as a run does."""
    cpu_tuning.tune()


def without_ynnpack() -> None:
    """Tune as a run does, but give no work to YNNPACK, so that XLA compiles everything itself."""
    cpu_tuning.tune()
    cpu_tuning.compiler_options = lambda platform: {cpu_tuning.YNNPACK: ""}


def keeping_memory() -> None:
    """Keep freed memory as a run does, but give YNNPACK the work that XLA gives it by default."""
    cpu_tuning._keep_memory()


def untuned() -> None:
    """Tune nothing, as with `--notune_cpu`."""
