"""A trained network, ready for use: from a run directory, or from published weights."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import parallel, weights
from resnet_jax.data import feeds, splits
from resnet_jax.data.inputs import common_classes
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.selection import Selection
from resnet_jax.data.sources import Source
from resnet_jax.errors import UserError
from resnet_jax.models import creation, pretrained
from resnet_jax.models.schemes import Scheme, detect, scheme_of
from resnet_jax.workdir import WorkDir


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory's chosen checkpoint holds: the best on validation, or the last of a run without it.

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


def load_run(workdir: str) -> Run:
    """Reads the chosen checkpoint of a run directory onto all devices, whatever devices it was trained on.

    Raises:
      UserError: if `workdir` is no run directory, has no checkpoint yet, or holds a damaged one.
    """
    directory = WorkDir(workdir)
    config, classes = directory.config(), directory.classes()
    model = creation.from_config(config, len(classes))
    mesh = parallel.make_mesh()
    variables = parallel.abstract(abstract_variables(model, len(config.dataset.mean)), parallel.replicated(mesh))
    with contextlib.closing(directory):
        directory.open_checkpoints(config.checkpoint.keep, config.checkpoint.best_metric, read_only=True)
        step = directory.chosen_step()
        if step is None:
            raise UserError(f"{directory.path} has no checkpoint yet: train it first")
        if config.ema_decay is None:
            variables, _ = directory.restore(step, variables)
        else:
            items, _ = directory.restore(step, {"ema": variables})
            variables = items["ema"]
    return Run(config, classes, model, variables, Preprocess.from_config(config.dataset), step, mesh)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights to begin with, from `open_pretrained`.

    Attributes:
      path: where they were read.
      arrays: by their names in `scheme`.
      mean, std: one number a channel, of the pixels in [0, 1] that they were trained on.
    """

    path: str
    arrays: Mapping[str, np.ndarray]
    scheme: Scheme
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def variables(self, abstract: dict) -> tuple[dict, pretrained.Report]:
        """What of these variables the weights hold: all, or all but a head for another number of classes.

        Raises:
          UserError: if they are of another architecture.
        """
        variables, report = pretrained.to_variables(self.arrays, self.scheme, abstract)
        pretrained.require_all_but_head(report)
        return variables, report

    def all_variables(self, abstract: dict) -> dict:
        """These variables.

        Raises:
          UserError: if the weights do not hold all of them.
        """
        variables, report = self.variables(abstract)
        if report.differences():
            raise UserError(
                f"{self.path} tells another number of classes apart than the data has: train a new head first"
            )
        return variables


def open_pretrained(path: str) -> Pretrained:
    """Reads weights from a run directory, a file or hf://owner/name; see `weights.read`.

    Raises:
      UserError: if they cannot be read, or are of no network that is known.
    """
    if WorkDir(path).exists():
        run = load_run(path)
        arrays, dataset = pretrained.from_variables(run.variables, run.model), run.config.dataset
        return Pretrained(path, arrays, scheme_of(run.model), dataset.mean, dataset.std)
    read = weights.read(path)
    scheme = detect(read.arrays)
    mean, std = (tuple(json.loads(read.metadata[key])) if key in read.metadata else None for key in ("mean", "std"))
    return Pretrained(path, read.arrays, scheme, mean or scheme.mean, std or scheme.std)


def load_pretrained(config: ConfigDict, sources: Mapping[str, Source]) -> Run:
    """The network of `config` with the weights `config.init_from`, to be scored on a data set of its classes.

    Raises:
      UserError: if the weights do not fit the network or the number of classes.
    """
    config, mesh, classes = config.copy_and_resolve_references(), parallel.make_mesh(), common_classes(sources)
    found, dataset = open_pretrained(config.init_from), config.dataset
    splits.resolve(dataset, sources)
    feeds.resolve(dataset, Selection.of(sources, dataset.test_split), mesh)
    if dataset.mean is None:
        dataset.mean, dataset.std = found.mean, found.std
    model = creation.from_config(config, len(classes))
    variables = found.all_variables(abstract_variables(model, len(dataset.mean)))
    variables = parallel.place(variables, parallel.replicated(mesh))
    return Run(config, classes, model, variables, Preprocess.from_config(dataset), None, mesh)


def load_teacher(config: ConfigDict, classes: tuple[str, ...]) -> Run:
    """The network that `config.loss.distill_from` names, to be learned from.

    A run directory tells what it is. Other weights are of the network `loss.distill_model`, or of the student's own.

    Raises:
      UserError: if it tells other classes apart.
    """
    loss, mesh = config.loss, parallel.make_mesh()
    if WorkDir(loss.distill_from).exists():
        teacher = load_run(loss.distill_from)
        if teacher.classes != classes:
            raise UserError(f"the teacher {loss.distill_from} tells other classes apart than the data set has")
        return teacher
    config = config.copy_and_resolve_references()
    config.model.name = loss.distill_model or config.model.name
    found, model = open_pretrained(loss.distill_from), creation.from_config(config, len(classes))
    config.dataset.mean, config.dataset.std = found.mean, found.std
    variables = found.all_variables(abstract_variables(model, len(found.mean)))
    variables = parallel.place(variables, parallel.replicated(mesh))
    return Run(config, classes, model, variables, Preprocess.from_config(config.dataset), None, mesh)


def abstract_variables(model: nn.Module, channels: int) -> dict:
    """Shapes and types of the variables of a network for pictures of so many channels."""
    images = jnp.zeros((1, 32, 32, channels))  # Any height and width give the same.
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
