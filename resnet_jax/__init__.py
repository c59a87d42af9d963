"""Train ResNets in JAX: `create_model`, `list_models`, `train` and `load_run`.

Each of these is imported on first use, so that `import resnet_jax` loads neither JAX nor an optional package.
"""

from etils import epy

__version__ = "0.1.0"
__all__ = ["create_model", "list_models", "load_run", "train"]

with epy.lazy_api_imports(globals()):
    from resnet_jax.models.factory import list_models
    from resnet_jax.pretrained.create import create_model
    from resnet_jax.trained_model import load_run
    from resnet_jax.training.train import train
