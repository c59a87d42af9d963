"""A trained network, ready for use, and how it is read from its run directory."""

import contextlib
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import parallel
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.errors import UserError
from resnet_jax.models import creation
from resnet_jax.workdir import WorkDir


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network: of a run directory the best on validation, or the last where there is no validation.

    Attributes:
      config: the resolved settings.
      classes: the names of the classes, by label.
      model: the Linen module.
      variables: `{"params": ..., "batch_stats": ...}`, replicated over `mesh`; of a run with averages, these.
      preprocess: uint8 [batch, height, width, channels] to what `model` takes.
      step: the steps that had been taken; None for published weights.
      mesh: the devices.
    """

    config: ConfigDict
    classes: tuple[str, ...]
    model: nn.Module
    variables: dict
    preprocess: Preprocess
    step: int | None
    mesh: Mesh


def load_run(workdir: str, mesh: Mesh | None = None) -> Run:
    """Reads the chosen checkpoint of a run directory onto all devices, whatever devices it was trained on.

    Raises:
      UserError: if `workdir` is no run directory, has no checkpoint yet, or holds a damaged one.
    """
    directory = WorkDir(workdir)
    config, classes = directory.config(), directory.classes()
    model = creation.from_config(config, len(classes))
    mesh = mesh or parallel.make_mesh()
    variables = parallel.abstract(abstract_variables(model, len(config.dataset.mean)), parallel.replicated(mesh))
    with contextlib.closing(directory):
        directory.open_checkpoints(config.checkpoint.keep, config.checkpoint.best_metric, read_only=True)
        step = directory.checkpoints.chosen_step()
        if step is None:
            raise UserError(f"{directory.path} has no checkpoint yet: train it first")
        if config.ema_decay is None:
            variables, _ = directory.checkpoints.restore(step, variables)
        else:
            items, _ = directory.checkpoints.restore(step, {"ema": {"batch_stats": {}, **variables}})
            variables = items["ema"]
    return Run(config, classes, model, variables, Preprocess.from_config(config.dataset), step, mesh)


def abstract_variables(model: nn.Module, channels: int) -> dict:
    """Shapes and types of the variables of a network for pictures of so many channels."""
    images = jnp.zeros((1, 32, 32, channels))  # Any height and width give the same.
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
