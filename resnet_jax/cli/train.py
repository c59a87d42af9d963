"""Train a model, or resume the run in the workdir."""

from resnet_jax.cli import flags
from resnet_jax.errors import ExitCode

CONFIG = flags.define_config("The recipe, such as configs/cifar10.py:resnet20.")
WORKDIR = flags.define_workdir("The run directory: a new one, or one to resume.")
CLUSTER = flags.ClusterFlags()


def run() -> ExitCode:
    from resnet_jax.training.train import train

    CLUSTER.join()
    train(CONFIG.value, WORKDIR.value)
    return ExitCode.DONE
