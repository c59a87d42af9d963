"""Write the chosen checkpoint of a run, or published weights, as a file for others."""

from absl import flags

from resnet_jax.verbs import processes
from resnet_jax.verbs.subject import CONFIG, WORKDIR, check_flags

TO = flags.DEFINE_string("to", None, "The file to write: weights.safetensors, named as torchvision or timm does.")
flags.mark_flag_as_required("to")


def run() -> int:
    from resnet_jax import parallel, weights
    from resnet_jax.data.sources import open_dataset
    from resnet_jax.from_weights import load_pretrained
    from resnet_jax.inference.export import export_weights
    from resnet_jax.init_from import open_pretrained
    from resnet_jax.models.schemes import scheme_of
    from resnet_jax.run import load_run

    check_flags("export")
    weights.check_target(TO.value)
    processes.join()
    if WORKDIR.value:
        trained = load_run(WORKDIR.value)
        of = f"the weights of step {trained.step:,}"
    else:  # The data tells the classes and the size of the pictures.
        config = CONFIG.value
        found = open_pretrained(config.init_from)
        sources = open_dataset(config.dataset.name, config.dataset.data_dir)
        trained = load_pretrained(config, found, sources, config.dataset.train_split)
        of = config.init_from
    if parallel.is_main_process():
        export_weights(trained, TO.value)
        print(f"Wrote {of} to {TO.value}, by the names of {scheme_of(trained.model).name}.")
    return 0
