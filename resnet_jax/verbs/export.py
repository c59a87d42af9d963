"""Write the chosen checkpoint of a run as a file for others."""

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.")
TO = flags.DEFINE_string("to", None, "The file to write: weights.safetensors, named as torchvision or timm does.")
flags.mark_flags_as_required(["workdir", "to"])


def run() -> int:
    from resnet_jax import parallel
    from resnet_jax.inference.export import export_weights
    from resnet_jax.models.schemes import scheme_of
    from resnet_jax.run import load_run

    trained = load_run(WORKDIR.value)
    if parallel.is_main_process():
        export_weights(trained, TO.value)
        names = scheme_of(trained.model).name
        print(f"Wrote the weights of step {trained.step:,} to {TO.value}, by the names of {names}.")
    return 0
