"""ResNets in JAX: `create_model`, `train` and `load_run`; see README.md.

They are imported when first asked for, so that what needs only the settings does not wait for JAX.
"""

import importlib

_HOMES = {
    "create_model": "resnet_jax.models.factory",
    "train": "resnet_jax.training.train",
    "load_run": "resnet_jax.trained_model",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
