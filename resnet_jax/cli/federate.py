"""Train a model on clients that keep their data, simulated on this machine, or resume the run in the workdir.

    python main.py federate --config=configs/federated_cifar10.py --workdir=/tmp/federated

The recipe names a partition of the training split among clients (`federated.partition`), and an epoch is a round. What
comes out is an ordinary run directory. `train` does the same with such a recipe.
"""

from resnet_jax.cli import flags
from resnet_jax.errors import ExitCode, UserError

CONFIG = flags.define_config("The recipe, such as configs/federated_cifar10.py.")
WORKDIR = flags.define_workdir("The run directory: a new one, or one to resume.")


def run() -> ExitCode:
    from resnet_jax.training.train import train

    if CONFIG.value.federated.partition is None:
        raise UserError("this recipe is not federated. Set --config.federated.partition, or use the command train.")
    train(CONFIG.value, WORKDIR.value)
    return ExitCode.DONE
