"""Trained networks that are no run of ours, from their weights: to be scored, or to be learned from."""

import dataclasses
from collections.abc import Callable, Mapping

from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import config_check, parallel
from resnet_jax.data import feeds, splits
from resnet_jax.data.inputs import VALIDATION, common_classes
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.selection import Selection
from resnet_jax.data.sources import Source
from resnet_jax.errors import UserError
from resnet_jax.init_from import Pretrained, is_run, open_pretrained
from resnet_jax.models import creation
from resnet_jax.run import Run, load_run


def load_pretrained(
    config: ConfigDict, found: Pretrained, sources: Mapping[str, Source], split: str | None = None
) -> Run:
    """The network of `config` with the weights `found`, for a data set's classes and the pictures of its `split`.

    `split` is the test split, if it is not said, or the training split if there is none; see `data.inputs.select`.

    Raises:
      UserError: if the weights do not fit the network or the classes.
    """
    config_check.check(config)
    config, mesh, classes = config.copy_and_resolve_references(), parallel.make_mesh(), common_classes(sources)
    dataset = config.dataset
    found.fill(dataset)
    splits.resolve(dataset, sources)
    split = split or (dataset.train_split if dataset.test_split == "none" else dataset.test_split)
    if split == VALIDATION and VALIDATION not in sources:
        split = dataset.validation_split or dataset.train_split  # It is held out of the latter.
    selection = Selection.of(sources, split)
    feeds.resolve(dataset, selection, mesh)
    if dataset.mean is None:
        raise UserError(
            f"the weights {found.path} do not tell their mean and deviation: set dataset.mean and dataset.std"
        )
    preprocess = Preprocess.from_config(dataset)
    preprocess.check(feeds.image_shape(selection)[-1])
    model = creation.from_config(config, len(classes))
    variables = parallel.place(found.all_variables(model, len(dataset.mean), classes), parallel.replicated(mesh))
    return Run(config, classes, model, variables, preprocess, None, mesh)


def load_teacher(
    config: ConfigDict, classes: tuple[str, ...], mesh: Mesh, tell: Callable[[str], None] = lambda line: None
) -> Run:
    """The network that `config.loss.distill_from` names, to be learned from; `tell` takes lines for the log.

    A run directory and a file of ours tell what they are. Other weights are of the network `loss.distill_model`, or of
    the student's own, and are taken to tell the same classes apart, in the same order.
    It is to see pictures in the size that it was trained on, if that is known, else in the student's.

    Raises:
      UserError: if it tells other classes apart, or its weights are of another network.
    """
    path, name = config.loss.distill_from, config.loss.distill_model
    if is_run(path):
        teacher = load_run(path, mesh)
        if teacher.classes != classes:
            raise UserError(f"the teacher {path} tells other classes apart than the data set has: choose another")
        size = teacher.config.dataset.image_size
        return dataclasses.replace(teacher, preprocess=dataclasses.replace(teacher.preprocess, image_size=size))
    found, student = open_pretrained(path), Preprocess.from_config(config.dataset)
    if found.classes is None:
        tell(f"The classes of {path} are not named there: they are taken to be the data's, in the same order.")
    mean, std = (found.mean, found.std) if found.mean else (student.mean, student.std)
    preprocess, name = Preprocess(mean, std, found.image_size or student.image_size), name or found.model
    if name:
        model = creation.create_model(name, len(classes), **found.network)
    else:
        model = creation.from_config(config, len(classes))
    try:
        variables = found.all_variables(model, len(mean), classes)
    except UserError as error:
        raise UserError(
            f"the teacher does not fit loss.distill_model={name or 'the same as the student'}: {error}"
        ) from None
    variables = parallel.place(variables, parallel.replicated(mesh))
    return Run(config, classes, model, variables, preprocess, None, mesh)
