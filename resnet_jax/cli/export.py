"""Write the chosen checkpoint of a run, or published weights, as a file for other libraries."""

from absl import flags

from resnet_jax.cli import flags as shared_flags
from resnet_jax.errors import ExitCode

MODEL = shared_flags.ModelFlags()
CLUSTER = shared_flags.ClusterFlags()
TO = flags.DEFINE_string(
    "to",
    None,
    "The file to write, such as weights.safetensors; it gets the parameter names of torchvision or timm.",
    required=True,
)


def run() -> ExitCode:
    from resnet_jax.inference.export import export_weights
    from resnet_jax.pretrained import weight_files
    from resnet_jax.pretrained.naming import scheme_for_model
    from resnet_jax.runtime import parallel
    from resnet_jax.terminal import Reporter

    MODEL.check("export")
    weight_files.check_target(TO.value)
    CLUSTER.join()
    trained = MODEL.load()
    if parallel.is_main_process():
        export_weights(trained, TO.value)
        weights = MODEL.config.value.init_from if trained.step is None else f"the weights of step {trained.step:,}"
        names = scheme_for_model(trained.model).name
        Reporter().print(f"Wrote {weights} to {TO.value}, with the parameter names of {names}.")
    return ExitCode.DONE
