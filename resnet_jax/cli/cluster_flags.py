"""The processes of a verb that computes: JAX detects TPU pods and Slurm jobs, and flags tell of other machines."""

from absl import flags

from resnet_jax.errors import UserError

COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "On several machines, unless of a TPU pod or Slurm: HOST:PORT of process 0."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are, mostly one a machine.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def join() -> None:
    """Joins the other processes, if there are any; before anything that touches a device.

    Raises:
      UserError: for flags that do not go together, or if the first process cannot be reached.
    """
    given = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)
    missing = [f"--{flag.name}" for flag in given if flag.value is None]
    if missing and len(missing) < len(given):
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"--coordinator, --num_processes and --process_id go together: {' and '.join(missing)} {verb} missing"
        )
    if not missing and not 0 <= PROCESS_ID.value < NUM_PROCESSES.value:
        raise UserError(
            f"there is no --process_id={PROCESS_ID.value} of --num_processes={NUM_PROCESSES.value}: the first one is 0"
        )
    # Imports JAX, which those who mistyped a flag need not wait for.
    from resnet_jax.runtime import cluster

    cluster.start(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
