"""Train a model, or resume the run in the workdir."""

import sys

from absl import flags as absl_flags

from resnet_jax.cli import flags
from resnet_jax.errors import ExitCode

CONFIG = flags.define_config("The recipe, such as configs/cifar10.py:resnet20.")
WORKDIR = flags.define_workdir("The run directory: a new one, or one to resume.")
CLUSTER = flags.ClusterFlags()
RESTARTS = absl_flags.DEFINE_integer(
    "restarts", 0, "How often to resume from the last checkpoint by itself if a process of the run dies.", lower_bound=0
)


def run() -> int:
    if RESTARTS.value:
        return _supervise()
    from resnet_jax.training.train import train

    CLUSTER.join()
    train(CONFIG.value, WORKDIR.value)
    return ExitCode.DONE


def _supervise() -> int:
    """Train in a child process, which is started again if it dies."""
    coordinator, num_processes, process_id = CLUSTER.check()
    from resnet_jax.training import restarts
    from resnet_jax.workdir.workdir import WorkDir

    team = None
    if coordinator is not None and num_processes is not None:
        team = restarts.Team(tuple(range(num_processes)), coordinator)
    given = [argument for argument in sys.argv[1:] if argument != "--"]  # No flag could follow it.
    arguments = ["train", *given, "--restarts=0"]
    return restarts.supervise(arguments, WorkDir(WORKDIR.value).path, RESTARTS.value, team, process_id or 0)
