"""Weights to begin with, to score, or to learn from: of a run directory, a file, or the Hugging Face hub."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from resnet_jax import config_check, weights
from resnet_jax.errors import UserError
from resnet_jax.models import pretrained
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.schemes import TIMM_RESNET_D, Scheme, detect, scheme_of
from resnet_jax.models.variants import VARIANTS
from resnet_jax.run import abstract_variables, load_run
from resnet_jax.workdir import WorkDir

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
    ) -> tuple[dict, pretrained.Report]:
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
        variables, report = pretrained.to_variables(self.arrays, self.scheme, abstract_variables(model, channels), skip)
        pretrained.require_all_but_head(report)
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
        arrays, dataset = pretrained.from_variables(run.variables, run.model), run.config.dataset
        network = {setting: getattr(run.model, setting) for setting in NOT_IN_SHAPES}
        pixels = dataset.mean, dataset.std, dataset.image_size
        return Pretrained(path, arrays, scheme_of(run.model), *pixels, run.classes, run.config.model.name, network)
    read = weights.read(path)
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
