"""Train a network, or go on with the run in the workdir."""

from absl import flags
from ml_collections import config_flags

from resnet_jax.cli import cluster_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, such as configs/cifar10.py:resnet20.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run directory, to be made or to go on with.")
flags.mark_flags_as_required(["config", "workdir"])


def run() -> int:
    from resnet_jax.training.train import train

    cluster_flags.join()
    train(CONFIG.value, WORKDIR.value)
    return 0
