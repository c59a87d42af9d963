"""The network that a verb is about: --workdir=RUN, or a recipe with --config.init_from=WEIGHTS in its place."""

from absl import flags
from ml_collections import config_flags

from resnet_jax.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.")
CONFIG = config_flags.DEFINE_config_file("config", None, "In its place a recipe, with --config.init_from=WEIGHTS.")


def check_flags(verb: str) -> None:
    """Raises `UserError` unless exactly one network is named."""
    if (WORKDIR.value is None) == (CONFIG.value is None):
        raise UserError(f"{verb} takes either --workdir, or --config with --config.init_from")
    if CONFIG.value is not None and not CONFIG.value.init_from:
        raise UserError("--config.init_from is missing: the weights to take")


def load(split: str | None = None, data_dir: str | None = None):
    """The network, a `TrainedModel`; where weights are named, the recipe's data tells the classes and the size of pictures.

    `split` and `data_dir` say which pictures, and where they are, if not the test split where the recipe says.
    """
    from resnet_jax.data.sources import open_sources
    from resnet_jax.pretrained.load import load_pretrained, open_pretrained
    from resnet_jax.trained_model import load_run

    if WORKDIR.value:
        return load_run(WORKDIR.value)
    config = CONFIG.value
    found = open_pretrained(config.init_from)
    sources = open_sources(config.dataset.name, data_dir or config.dataset.data_dir)
    return load_pretrained(config, found, sources, split)
