"""Weights to begin with, to score, or to learn from: of a run directory, a file, or the Hugging Face hub."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import config_check
from resnet_jax.data import feed_config, splits
from resnet_jax.data.dataset import VALIDATION, common_classes
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.sources import Source
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.models import factory
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import VARIANTS
from resnet_jax.pretrained import convert, weight_files
from resnet_jax.pretrained.naming import TIMM_RESNET_D, Scheme, detect, scheme_of
from resnet_jax.runtime import parallel
from resnet_jax.trained_model import TrainedModel, abstract_variables, load_run
from resnet_jax.workdir.workdir import WorkDir

logger = logging.getLogger(__name__)

# Attributes of a network that change what it computes, and the shape of no array.
NOT_IN_SHAPES = ("blur_pool", "norm", "norm_epsilon", "shortcut", "stem", "weight_standardization")
KNOWN = ("mean", "std", "image_size", "classes", "model", "network")  # of a file that we have written
LARGEST_IMAGE = 10_000  # pixels on a side that a file may say it was trained on


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights to begin with, from `open_pretrained`.

    Attributes:
      path: where they were read.
      arrays: by their names in `scheme`.
      mean, std: one number a channel, of the pixels in [0, 1] that they were trained on; None where that is not known.
      image_size: pixels on a side of the pictures that they were trained on; None where that is not known.
      classes: the names of the classes; None where they are not known.
      model: the network's name; None where it is not known.
      network: values of `NOT_IN_SHAPES`, as far as they are known.
    """

    path: str
    arrays: Mapping[str, np.ndarray]
    scheme: Scheme
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    image_size: int | None
    classes: tuple[str, ...] | None
    model: str | None
    network: Mapping[str, object]

    def fill(self, dataset: ConfigDict) -> str:
        """Fills in what `dataset` leaves open and the weights tell; returns a line on it, or ''."""
        told = []
        if dataset.mean is None and self.mean is not None:
            dataset.mean, dataset.std = self.mean, self.std
            told.append(f"mean {self.mean} and deviation {self.std} of the pixels")
        if dataset.image_size is None and self.image_size is not None:
            dataset.image_size = self.image_size
            told.append(f"pictures of {self.image_size} x {self.image_size}")
        as_trained = f"{self.path} was" if self.network else f"weights of {self.scheme.name} usually are"
        return f"As {as_trained} trained: {', '.join(told)}." if told else ""

    def variables(
        self, model: ResNet, channels: int, classes: Sequence[str], skip: Sequence[str] = ()
    ) -> tuple[dict, convert.Report]:
        """What the weights hold of a network for pictures of so many channels and these classes.

        All but `skip`, a head for another number of classes, and a head for classes that are known to be others.

        Raises:
          UserError: if they are of another architecture.
        """
        for setting, value in self.network.items():
            if getattr(model, setting) != value:
                name = "batch_norm.epsilon" if setting == "norm_epsilon" else f"model.{setting}"
                raise UserError(
                    f"the weights {self.path} were trained with {name}={value}, and the config has "
                    f"{getattr(model, setting)}: set it to theirs"
                )
        # Of files of others only the names tell, and no shape does.
        if not self.network and (self.scheme is TIMM_RESNET_D) != (model.shortcut == "average_pool"):
            theirs = "average_pool" if self.scheme is TIMM_RESNET_D else "projection"
            raise UserError(f"the weights {self.path} have other shortcuts: set model.shortcut={theirs}")
        if self.classes not in (None, tuple(classes)) and not any(map("head".startswith, skip)):
            skip = (*skip, "head*")
        variables, report = convert.to_variables(self.arrays, self.scheme, abstract_variables(model, channels), skip)
        convert.require_all_but_head(report)
        return variables, report

    def all_variables(self, model: ResNet, channels: int, classes: Sequence[str]) -> dict:
        """All variables of that network.

        Raises:
          UserError: if the weights do not hold all of them, or tell other classes apart.
        """
        variables, report = self.variables(model, channels, classes)
        if report.differences() or report.skipped:
            raise UserError(
                f"the weights {self.path} tell other classes apart than the data has: train a new head first"
            )
        return variables


def open_pretrained(path: str) -> Pretrained:
    """Reads weights from a run directory, a file or hf://owner/name; see `weights.read`.

    Raises:
      UserError: if they cannot be read, or are of no network that is known.
    """
    if is_run(path):
        run = load_run(path)
        arrays, dataset = convert.from_variables(run.variables, run.model), run.config.dataset
        network = {setting: getattr(run.model, setting) for setting in NOT_IN_SHAPES}
        pixels = dataset.mean, dataset.std, dataset.image_size
        return Pretrained(path, arrays, scheme_of(run.model), *pixels, run.classes, run.config.model.name, network)
    read = weight_files.read(path)
    scheme, known = detect(read.arrays), _known(path, read.metadata)
    if "mean" not in known and scheme.input_channels(read.arrays) == len(scheme.mean):
        known |= {"mean": scheme.mean, "std": scheme.std}
    known = {**dict.fromkeys(KNOWN), "network": {}} | known
    return Pretrained(path, read.arrays, scheme, **known)


def is_run(path: str) -> bool:
    """Whether `path` is a run directory, and not a file or an address."""
    local = "://" not in path or path.startswith("gs://")
    return local and WorkDir(path).exists() and (WorkDir(path).path / "classes.json").exists()


def _known(path: str, metadata: Mapping[str, str]) -> dict:
    """What a file that we have written tells of its weights; empty for files of others."""
    if "mean" not in metadata:
        return {}
    try:
        known = {key: json.loads(metadata[key]) for key in KNOWN}
        known |= {key: tuple(known[key]) for key in ("mean", "std", "classes")}
        config_check.check_normalisation(known["mean"], known["std"])
        if not all(isinstance(name, str) for name in known["classes"]):
            raise ValueError
        if known["image_size"] is not None and known["image_size"] not in range(1, LARGEST_IMAGE):
            raise ValueError
        if known["model"] not in VARIANTS:
            raise ValueError
        known["network"] = {setting: known["network"][setting] for setting in NOT_IN_SHAPES}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UserError):
        raise UserError(f"the metadata of {path} is not as export writes it: export the weights again") from None
    return known


# --- Trained networks that are no run of ours, from their weights: to be scored, or to be learned from.


def load_pretrained(
    config: ConfigDict, found: Pretrained, sources: Mapping[str, Source], split: str | None = None
) -> TrainedModel:
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
    subset = Subset.from_split(sources, split)
    feed_config.resolve(dataset, subset, mesh)
    if dataset.mean is None:
        raise UserError(
            f"the weights {found.path} do not tell their mean and deviation: set dataset.mean and dataset.std"
        )
    preprocess = Preprocess.from_config(dataset)
    preprocess.check(subset.image_shape[-1])
    model = factory.from_config(config, len(classes))
    variables = parallel.place(found.all_variables(model, len(dataset.mean), classes), parallel.replicated(mesh))
    return TrainedModel(config, classes, model, variables, preprocess, None, mesh)


def load_teacher(config: ConfigDict, classes: tuple[str, ...], mesh: Mesh) -> TrainedModel:
    """The network that `config.loss.distill_from` names, to be learned from.

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
        logger.info(f"The classes of {path} are not named there: they are taken to be the data's, in the same order.")
    mean, std = (found.mean, found.std) if found.mean else (student.mean, student.std)
    preprocess, name = Preprocess(mean, std, found.image_size or student.image_size), name or found.model
    if name:
        model = factory.create_model(name, len(classes), **found.network)
    else:
        model = factory.from_config(config, len(classes))
    try:
        variables = found.all_variables(model, len(mean), classes)
    except UserError as error:
        raise UserError(
            f"the teacher does not fit loss.distill_model={name or 'the same as the student'}: {error}"
        ) from None
    variables = parallel.place(variables, parallel.replicated(mesh))
    return TrainedModel(config, classes, model, variables, preprocess, None, mesh)
