"""Write the chosen checkpoint of a run, or published weights, as a file for others."""

from absl import flags

from resnet_jax.cli import cluster_flags, model_flags

TO = flags.DEFINE_string("to", None, "The file to write: weights.safetensors, named as torchvision or timm does.")
flags.mark_flag_as_required("to")


def run() -> int:
    from resnet_jax.inference.export import export_weights
    from resnet_jax.pretrained import weight_files
    from resnet_jax.pretrained.naming import scheme_of
    from resnet_jax.runtime import parallel

    model_flags.check_flags("export")
    weight_files.check_target(TO.value)
    cluster_flags.join()
    trained = model_flags.load()
    of = model_flags.CONFIG.value.init_from if trained.step is None else f"the weights of step {trained.step:,}"
    if parallel.is_main_process():
        export_weights(trained, TO.value)
        print(f"Wrote {of} to {TO.value}, by the names of {scheme_of(trained.model).name}.")
    return 0
