"""A short recipe with a tiny model, which every process that loads the recipe knows."""

from resnet_jax.config import default
from resnet_jax.models import variants
from tests.end_to_end.tiny import TINY_VARIANT


def get_config():
    variants.VARIANTS["tiny"] = TINY_VARIANT
    config = default()
    config.dataset.name = "digits"
    config.dataset.train_split = "train[:400]"
    config.model.name = "tiny"
    config.batch_size = 64
    config.num_epochs = 3
    config.log_every_steps = 5
    return config
