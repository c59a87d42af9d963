"""Load pretrained weights from a run directory, a file or the Hugging Face hub.

The weights become initial weights (`init_from`), a model to evaluate without training, or a teacher for distillation.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import config_check
from resnet_jax.data import bit_depth, feed_config, splits
from resnet_jax.data.bit_depth import MIN_BIT_DEPTH
from resnet_jax.data.dataset import VALIDATION, common_classes
from resnet_jax.data.decode import MAX_BIT_DEPTH
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.sources import Source
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.models import factory, public_weights
from resnet_jax.models.public_weights import PublicWeights
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import VARIANTS
from resnet_jax.pretrained import convert, copies, weight_files
from resnet_jax.pretrained.naming import TIMM_PRE_ACTIVATION, TIMM_RESNET_D, Scheme, scheme_for_model
from resnet_jax.runtime import parallel
from resnet_jax.trained_model import TrainedModel, abstract_variables, load_run
from resnet_jax.workdir.workdir import WorkDir

logger = logging.getLogger(__name__)

# Attributes of `ResNet` that change what the model computes, but not the shapes of its variables.
SETTINGS_NOT_IMPLIED_BY_SHAPES = (
    "activation",
    "blur_pool",
    "norm",
    "norm_epsilon",
    "shortcut",
    "stem",
    "weight_standardization",
)
# What `export` writes into a file. The key "network" holds the values of `SETTINGS_NOT_IMPLIED_BY_SHAPES`.
METADATA_KEYS = ("mean", "std", "image_size", "classes", "model", "network")
ADDED_METADATA_KEYS = ("bit_depth", "multi_label")  # Older files do not have them.
PUBLIC = "pretrained"  # `init_from` is this, or this followed by ":" and a tag, for weights of `PUBLIC_WEIGHTS`.
IMAGE_SIZE_LIMIT = 10_000  # An `image_size` of this many pixels or more in the metadata of a file is not accepted.


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Pretrained weights and what is known about them, from `open_pretrained`.

    Attributes:
      path: the path or address of the weights.
      arrays: the arrays by their names in `scheme`.
      scheme: the naming scheme of the arrays.
      mean, std: per channel, of the pixels in [0, 1] that the weights were trained on; None if unknown.
      image_size: height and width in pixels of the images that the weights were trained on or, for public weights, were
        scored on; None if unknown.
      bit_depth: the number of bits of 16-bit images that the weights were trained on; None if unknown.
      multi_label: whether the weights were trained on images with any number of labels; None if unknown.
      eval_resize: for public weights, the short side in pixels of these images before the center crop; else None.
      classes: the names of the classes; None if unknown; empty after pre-training without labels.
      model: the name of the model; None if unknown.
      settings: the values of the settings in `SETTINGS_NOT_IMPLIED_BY_SHAPES`; empty if unknown.
      values_from: where `mean`, `std` and `image_size` come from; completes "the values that ...".
      other_dtypes: the dtypes of arrays that are not floating-point, by name.
    """

    path: str
    arrays: Mapping[str, np.ndarray]
    scheme: Scheme
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    image_size: int | None
    classes: tuple[str, ...] | None
    model: str | None
    settings: Mapping[str, Any]
    values_from: str
    other_dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    eval_resize: int | None = None
    bit_depth: int | None = None
    multi_label: bool | None = None

    def fill(self, dataset: ConfigDict) -> str:
        """Fill in the unset `dataset` settings that the weights determine, and return a log line about them, or ''.

        Warn if mean and std are set to other values.
        """
        filled = []
        if None not in (dataset.mean, self.mean) and (dataset.mean, dataset.std) != (self.mean, self.std):
            logger.warning(
                f"dataset.mean and dataset.std differ from the values that {self.values_from}, so the accuracy may "
                f'suffer. To use these: --config.dataset.mean="{self.mean}" --config.dataset.std="{self.std}"'
            )
        if dataset.mean is None and self.mean is not None:
            dataset.mean, dataset.std = self.mean, self.std
            filled.append(f"dataset.mean={self.mean}, dataset.std={self.std}")
        if dataset.image_size is None and self.image_size is not None:
            dataset.image_size = self.image_size
            filled.append(f"dataset.image_size={self.image_size}")
        if not filled:
            return ""
        return f"Using the values that {self.values_from}: {', '.join(filled)}."

    def fill_all(self, dataset: ConfigDict) -> None:
        """Like `fill`, and fill in the bit depth and the kind of labels, which training finds out from its own data."""
        self.fill(dataset)
        for name in ("bit_depth", "multi_label"):
            if dataset[name] is None:
                dataset[name] = getattr(self, name)

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes; if the weights do not record them, "0", "1", "2", ...

        Raises:
          UserError: if the weights have no head.
        """
        if self.classes:
            return self.classes
        bias = self.arrays.get(f"{self.scheme.modules['head']}.bias")
        if bias is None:
            raise UserError(f"the weights {self.path} have no head. Train one first.")
        return tuple(map(str, range(len(bias))))

    def variables(
        self, model: ResNet, channels: int, classes: Sequence[str], skip: Sequence[str] = ()
    ) -> tuple[dict, convert.LoadReport]:
        """Return the variables of `model` that the weights hold, and a report.

        The arrays in `skip` are left out. So is the head if the model has none, or if it is for a different number of
        classes, or for classes that are known to differ.

        Args:
          model: the model to load the weights into.
          channels: the number of image channels.
          classes: the names of the classes of the data.
          skip: patterns of arrays to leave out, see `convert.to_variables`.

        Raises:
          UserError: if the weights belong to another architecture, or an array that the model needs is not finite or
            not floating-point.
        """
        for setting, value in self.settings.items():
            if getattr(model, setting) != value:
                name = "batch_norm.epsilon" if setting == "norm_epsilon" else f"model.{setting}"
                raise convert.WeightsMismatch(
                    f"the weights {self.path} were trained with {name}={value}, but the config has "
                    f"{getattr(model, setting)}",
                    f"Set {name}={value}.",
                )
        if self.model is not None and VARIANTS[self.model].make(num_classes=1).block is not model.block:
            # The variables of two kinds of blocks can have the same names and shapes.
            raise convert.WeightsMismatch(
                f"the weights {self.path} are those of {self.model}, whose blocks differ from those of the config",
                f"Set model.name={self.model}.",
            )
        # In files of other libraries, only the array names reveal the kind of shortcut; those of timm's pre-activation
        # models do not.
        names_reveal_shortcut = not self.settings and self.scheme is not TIMM_PRE_ACTIVATION
        if names_reveal_shortcut and (self.scheme is TIMM_RESNET_D) != (model.shortcut == "average_pool"):
            shortcut = "average_pool" if self.scheme is TIMM_RESNET_D else "projection"
            raise convert.WeightsMismatch(
                f"the weights {self.path} use different shortcuts from the config (model.shortcut={model.shortcut})",
                f"Set model.shortcut={shortcut}.",
            )
        head = f"{self.scheme.modules['head']}."
        head_is_superfluous = not model.num_classes and any(name.startswith(head) for name in self.arrays)
        if head_is_superfluous or self.classes not in (None, tuple(classes)):
            skip = (*skip, f"{head}*")
        variables, report = convert.to_variables(self.arrays, self.scheme, abstract_variables(model, channels), skip)
        self._check_values(report)
        convert.require_all_but_head(report)
        return variables, report

    def _check_values(self, report: convert.LoadReport) -> None:
        """Check that the arrays that the model needs hold finite floating-point numbers."""
        readable = ", ".join(weight_files.READABLE.values())
        for name in report.missing:
            if name in self.other_dtypes:
                raise UserError(
                    f"cannot load the weights {self.path} (the array {name} has dtype {self.other_dtypes[name]}). "
                    f"Save them as one of {readable}."
                )
        for name in report.loaded:
            if not np.isfinite(self.arrays[name]).all():
                raise UserError(
                    f"cannot load the weights {self.path} (the array {name} has non-finite values). "
                    "Give weights from before the training diverged."
                )

    def all_variables(self, model: ResNet, channels: int, classes: Sequence[str], skip: Sequence[str] = ()) -> dict:
        """Return all variables of `model`.

        Args:
          model, channels, classes, skip: see `variables`.

        Raises:
          UserError: if the weights do not hold all variables, or are for other classes.
        """
        variables, report = self.variables(model, channels, classes, skip)
        if len(report.loaded) < report.needed:
            problem = "have different classes from the dataset"
            if skip:
                problem += ", or init_skip leaves out arrays that the model needs"
            raise UserError(f"the weights {self.path} {problem}. Train a new head first.")
        return variables


def open_pretrained(path: str, key: str | None = None, key_setting: str | None = "init_key") -> Pretrained:
    """Read weights from a run directory, a file or hf://owner/name; see `weight_files.read`.

    Args:
      path: the path or address.
      key: which copy of the weights in a file to load, see `copies.choose`.
      key_setting: the setting that holds `key`, for messages; None if there is no such setting.

    Raises:
      UserError: if the weights cannot be read, or are not those of a known ResNet.
    """
    if is_run_directory(path):
        if key is not None:
            raise UserError(f"init_key ({key!r}) has no effect on a run directory ({path}). Remove it.")
        run = load_run(path, calibrated=False)
        arrays = convert.from_variables(run.variables, run.model)
        dataset = run.config.dataset
        return Pretrained(
            path=path,
            arrays=arrays,
            scheme=scheme_for_model(run.model),
            mean=dataset.mean,
            std=dataset.std,
            image_size=dataset.image_size,
            classes=run.classes,
            model=run.config.model.name,
            settings=settings_not_implied_by_shapes(run.model),
            values_from=f"{path} was trained with",
            bit_depth=dataset.bit_depth or MAX_BIT_DEPTH,
            multi_label=run.is_multi_label,
        )
    file = weight_files.read(path)
    copy = copies.choose(file, path, key, key_setting)
    scheme = copy.scheme
    metadata = _parse_metadata(path, file.metadata)
    file_is_ours = bool(metadata)
    if not metadata and scheme.input_channels(copy.arrays) == len(scheme.mean):
        metadata = {"mean": scheme.mean, "std": scheme.std}  # the usual values for weights of this library
    return Pretrained(
        path=path,
        arrays=copy.arrays,
        scheme=scheme,
        mean=metadata.get("mean"),
        std=metadata.get("std"),
        image_size=metadata.get("image_size"),
        classes=metadata.get("classes"),
        model=metadata.get("model"),
        settings=metadata.get("network", {}),
        values_from=f"{path} was trained with" if file_is_ours else f"weights of {scheme.name} usually expect",
        other_dtypes=copy.other_dtypes,
        bit_depth=metadata.get("bit_depth"),
        multi_label=metadata.get("multi_label"),
    )


def open_public(name: str, tag: str | None = None, key: str | None = None) -> Pretrained:
    """Download, if necessary, and read the public weights of a model.

    Args:
      name: a key of `VARIANTS`.
      tag: the tag of the weights in `PUBLIC_WEIGHTS`; None: the default weights of the model.
      key: see `open_pretrained`.

    Raises:
      UserError: if there are no such weights, or they cannot be downloaded or read.
    """
    row = public_weights.find(name, tag)
    model = factory.create_model(name, row.num_classes)
    return dataclasses.replace(
        open_pretrained(row.address, key),
        mean=row.mean,
        std=row.std,
        image_size=row.image_size,
        eval_resize=row.eval_resize,
        model=name,
        settings=settings_not_implied_by_shapes(model),
        values_from=f"are published for {row.address}",
    )


def open_initial_weights(config: ConfigDict) -> Pretrained:
    """Open the weights that `config.init_from` names: public weights of `config.model.name`, or any others.

    Raises:
      UserError: as `open_pretrained` and `open_public` do.
    """
    row = _find_public(config)
    if row is not None:
        return open_public(config.model.name, row.tag, config.init_key)
    return open_pretrained(config.init_from, config.init_key)


def address_of_initial_weights(config: ConfigDict) -> str:
    """Return the path or address of the weights that `config.init_from` names, without opening them.

    Raises:
      UserError: if it names public weights that `config.model.name` does not have.

    Example:
      >>> from resnet_jax.config import default
      >>> config = default()
      >>> config.model.name, config.init_from = "resnet50", "pretrained:tv_in1k"
      >>> address_of_initial_weights(config)
      'hf://timm/resnet50.tv_in1k'
    """
    row = _find_public(config)
    return config.init_from if row is None else row.address


def _find_public(config: ConfigDict) -> PublicWeights | None:
    """Return the public weights of the model that `config.init_from` names by tag or address; None: it names others."""
    kind, _, tag = config.init_from.partition(":")
    if kind == PUBLIC:
        return public_weights.find(config.model.name, tag or None)
    rows = public_weights.PUBLIC_WEIGHTS.get(config.model.name, ())
    return next((row for row in rows if row.address == config.init_from), None)


def is_run_directory(path: str) -> bool:
    """Return whether `path` is a run directory, rather than a file or hf://owner/name."""
    if os.path.isfile(path) or ("://" in path and not path.startswith("gs://")):
        return False
    return WorkDir(path).exists() and (WorkDir(path).path / "classes.json").exists()


def settings_not_implied_by_shapes(model: ResNet) -> dict[str, Any]:
    """Return the values of the settings in `SETTINGS_NOT_IMPLIED_BY_SHAPES`."""
    return {setting: getattr(model, setting) for setting in SETTINGS_NOT_IMPLIED_BY_SHAPES}


def _parse_metadata(path: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Parse the metadata that `export` writes. Return an empty dict for the files of other libraries."""
    if "mean" not in metadata:
        return {}
    try:
        values = {key: json.loads(metadata[key]) for key in METADATA_KEYS}
        values |= {key: json.loads(metadata[key]) for key in ADDED_METADATA_KEYS if key in metadata}
        values |= {key: tuple(values[key]) for key in ("mean", "std", "classes")}
        config_check.check_normalization(values["mean"], values["std"])
        if not all(isinstance(name, str) for name in values["classes"]):
            raise ValueError
        if values["image_size"] is not None and values["image_size"] not in range(1, IMAGE_SIZE_LIMIT):
            raise ValueError
        if values["model"] not in VARIANTS:
            raise ValueError
        if values.get("bit_depth") not in (None, *range(MIN_BIT_DEPTH, MAX_BIT_DEPTH + 1)):
            raise ValueError
        if values.get("multi_label") not in (None, False, True):
            raise ValueError
        network = {"activation": "relu", **values["network"]}  # Older files lack the activation, which was ReLU.
        values["network"] = {setting: network[setting] for setting in SETTINGS_NOT_IMPLIED_BY_SHAPES}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UserError):
        raise UserError(
            f"the metadata of {path} was not written by `export` or is damaged. Export the weights again."
        ) from None
    return values


# ---- Models from pretrained weights: to evaluate, or as a teacher ----------------------------------------------------


def load_pretrained(
    config: ConfigDict,
    weights: Pretrained,
    sources: Mapping[str, Source],
    split: str | None = None,
    mesh: Mesh | None = None,
) -> TrainedModel:
    """Return the model of `config` with pretrained weights, and with preprocessing for the images of a split.

    Args:
      config: the config. Its dataset has the classes that the model predicts.
      weights: the pretrained weights.
      sources: the splits of the dataset by name.
      split: the split with the images, see `Subset.from_split`; default: the test split, or the training split if
        `dataset.test_split` is "none".
      mesh: the devices; default: all devices.

    Raises:
      UserError: if the weights do not fit the model or the classes.
    """
    config_check.check(config)
    config = config.copy_and_resolve_references()
    mesh = mesh or parallel.make_mesh()
    classes = common_classes(sources)
    dataset = config.dataset
    size_is_open = _size_is_open(dataset)
    weights.fill_all(dataset)
    splits.resolve(dataset, sources)
    split = split or (dataset.train_split if dataset.test_split == splits.NO_SPLIT else dataset.test_split)
    if split == VALIDATION and VALIDATION not in sources:
        if dataset.validation_split == splits.NO_SPLIT:
            raise UserError("there is no validation split (dataset.validation_split=none). Choose another --split.")
        split = dataset.train_split if splits.is_held_out(dataset) else dataset.validation_split
    subset = Subset.from_split(sources, split)
    if dataset.multi_label is None:
        dataset.multi_label = subset.label_sets is not None
    if dataset.bit_depth is None:
        dataset.bit_depth = bit_depth.measure(subset)
    feed_config.resolve(dataset, subset, mesh)
    if size_is_open and dataset.feed == "streaming":
        dataset.eval_resize = weights.eval_resize or dataset.eval_resize
    trained = _assemble(config, weights, classes, mesh)
    trained.preprocess.check(subset.image_shape[-1])
    return trained


def load_pretrained_without_data(config: ConfigDict, weights: Pretrained, mesh: Mesh | None = None) -> TrainedModel:
    """Return the model of `config` with pretrained weights, without opening the dataset.

    Classes that the weights do not name are called "0", "1", "2", ...

    Args:
      config, weights, mesh: see `load_pretrained`.

    Raises:
      UserError: if the weights do not fit the model, or neither they nor `config` determine the image size.
    """
    config_check.check(config)
    config = config.copy_and_resolve_references()
    dataset = config.dataset
    size_is_open = _size_is_open(dataset)
    weights.fill_all(dataset)
    if dataset.image_size is None:
        raise UserError(f"the weights {weights.path} do not record an image size. Set dataset.image_size.")
    if size_is_open:
        dataset.eval_resize = weights.eval_resize
    if dataset.feed == "streaming":
        feed_config.resolve_evaluation_size(dataset)
    if weights.classes is None:
        logger.warning("The classes are called 0, 1, 2, ..., because only the dataset would name them.")
    return _assemble(config, weights, weights.class_names(), mesh or parallel.make_mesh())


def _size_is_open(dataset: ConfigDict) -> bool:
    """Return whether neither the image size nor the resizing before the center crop is set."""
    return dataset.image_size is None and dataset.eval_resize is None


def _assemble(config: ConfigDict, weights: Pretrained, classes: Sequence[str], mesh: Mesh) -> TrainedModel:
    """Return the model of `config`, in whose `dataset` everything is set that evaluation needs, with the weights."""
    dataset = config.dataset
    crop = dataset.eval_crop or dataset.image_size
    if weights.eval_resize and (dataset.eval_resize, crop) != (weights.eval_resize, weights.image_size):
        logger.warning(
            f"The top-1 that is published for {weights.path} was measured on other image sizes. To use them: "
            f"--config.dataset.image_size={weights.image_size} --config.dataset.eval_crop={weights.image_size} "
            f"--config.dataset.eval_resize={weights.eval_resize}"
        )
    if dataset.mean is None:
        raise UserError(
            f"the weights {weights.path} do not record their pixel mean and std. Set dataset.mean and dataset.std."
        )
    model = factory.from_config(config, len(classes))
    variables = weights.all_variables(model, len(dataset.mean), classes, config.init_skip)
    variables = parallel.place(variables, parallel.replicated(mesh))
    return TrainedModel(config, tuple(classes), model, variables, Preprocess.from_config(dataset), None, mesh)


def load_teacher(config: ConfigDict, classes: tuple[str, ...], mesh: Mesh) -> TrainedModel:
    """Load the teacher in `config.loss.distill_from`.

    Run directories and files from `export` record their model and classes. Other weights are loaded into the model
    `loss.distill_model`, by default the student's, and are assumed to be for the same classes in the same order. The
    teacher sees images in the size that it was trained on or, if that is unknown, in the student's size.

    Raises:
      UserError: if the teacher has other classes, or its weights belong to another model.
    """
    path = config.loss.distill_from
    name = config.loss.distill_model
    if is_run_directory(path):
        teacher = load_run(path, mesh, calibrated=False)
        if teacher.classes != classes:
            raise UserError(f"the teacher {path} has different classes from the dataset. Choose another teacher.")
        size = teacher.config.dataset.image_size
        return dataclasses.replace(teacher, preprocess=dataclasses.replace(teacher.preprocess, image_size=size))
    weights = open_pretrained(path, key_setting=None)
    student = Preprocess.from_config(config.dataset)
    if weights.classes is None:
        logger.info(f"{path} does not name its classes. Assuming the classes of the dataset, in the same order.")
    mean, std = student.mean, student.std
    if weights.mean and weights.std:
        mean, std = weights.mean, weights.std
    preprocess = Preprocess(mean, std, weights.image_size or student.image_size)
    name = name or weights.model
    if name:
        default = factory.create_model(name, len(classes))
        changed = {setting: value for setting, value in weights.settings.items() if getattr(default, setting) != value}
        model = factory.create_model(name, len(classes), **changed)
    else:
        model = factory.from_config(config, len(classes))
    try:
        variables = weights.all_variables(model, len(mean), classes)
    except convert.WeightsMismatch as error:
        fitted = f"loss.distill_model={name}" if name else "the student's model (loss.distill_model is unset)"
        remedy = "Set loss.distill_model to the teacher's model."
        raise UserError(f"the teacher does not fit {fitted}: {error.problem}. {remedy}") from None
    variables = parallel.place(variables, parallel.replicated(mesh))
    return TrainedModel(config, classes, model, variables, preprocess, None, mesh)
