"""A trained model, ready for use: restored from a run directory, or built from pretrained weights."""

import collections
import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax.attribution import methods as attribution_methods
from resnet_jax.attribution.attribution_model import AttributionModel
from resnet_jax.data import class_matching, crops, feed_config
from resnet_jax.data.feed import EvaluationData
from resnet_jax.data.host_batches import NO_POSITION, BatchInfo
from resnet_jax.data.in_memory import InMemoryExamples
from resnet_jax.data.prediction_images import UnlabeledImages
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.streaming import StreamedExamples
from resnet_jax.data.subset import NO_LABEL, Subset
from resnet_jax.errors import UserError, unknown_name
from resnet_jax.models import factory
from resnet_jax.models.resnet import ResNet
from resnet_jax.runtime import parallel
from resnet_jax.selfsupervised import pretraining_methods, pretraining_model
from resnet_jax.workdir.checkpoints import Checkpoints
from resnet_jax.workdir.workdir import WorkDir

DEFAULT_THRESHOLD = 0.5  # of a model for any number of labels per image, without validation examples
MAX_BATCH_PER_DEVICE = 64  # images, in prediction
MAX_ATTRIBUTION_BATCH_PER_DEVICE = 16  # images; the backward pass takes memory, and progress is shown per batch


logger = logging.getLogger(__name__)


class Outputs(NamedTuple):
    """Outputs of a model for n images.

    Attributes:
      probabilities: float32 [n, classes]; meaningless if the model has no head.
      features: float32 [n, width], the input of the head.
      problems: why an image cannot be read, by the index of its row. The rows of these images are meaningless.
    """

    probabilities: np.ndarray
    features: np.ndarray
    problems: dict[int, str]


class Predictions(NamedTuple):
    """Predictions for n images.

    Attributes:
      probabilities: float32 [n, classes].
      labels: int32 [n], the class with the highest probability; or, for any number of labels per image, bool [n,
        classes], the classes whose probabilities reach their thresholds.
      names: the name of this class, or the names of these classes separated by commas, of each image.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


class Attributions(NamedTuple):
    """Maps of a batch of n images. The arrays have at least n rows; the rows beyond n are padding.

    The rows of images that cannot be read are meaningless.

    Attributes:
      num_images: n.
      images: the normalized images, float32 [batch, height, width, channels], on the devices.
      targets: int32 [batch], the index of the class that the maps are about, on the devices.
      probabilities: float32 [batch, classes].
      maps: float32 [batch, height, width] by method, in the geometry of `images`.
      completeness_gaps: float32 [batch] by method, for methods that have them; see `attribution.methods.Method`.
      problems: why an image cannot be read, by the index of its row.
    """

    num_images: int
    images: jax.Array
    targets: jax.Array
    probabilities: np.ndarray
    maps: dict[str, np.ndarray]
    completeness_gaps: dict[str, np.ndarray]
    problems: dict[int, str]


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model with everything that it takes to use it.

    Attributes:
      config: the resolved settings.
      classes: the names of the classes, by label.
      model: the Linen module.
      variables: `{"params": ..., "batch_stats": ...}`, replicated over `mesh`. For a run with `ema_decay`, these are
        the averaged variables, except after BYOL, whose average is only a target.
      preprocess: a function from uint8 images [batch, height, width, channels] to the input of `model`.
      step: the number of training steps; None for pretrained weights.
      mesh: the devices.
      validation: the validation metrics of the checkpoint; None if it has none.
      commit: the commit of the code that trained it; None if unknown.
      temperature: the divisor of the logits, see `with_temperature`.
      thresholds: for any number of labels per image, the probability from which each class is predicted; None: 0.5, or
        one label per image.
    """

    config: ConfigDict
    classes: tuple[str, ...]
    model: ResNet
    variables: dict
    preprocess: Preprocess
    step: int | None
    mesh: Mesh
    validation: dict[str, float] | None = None
    commit: str | None = None
    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None

    @property
    def is_multi_label(self) -> bool:
        """True if an image may have any number of labels, so that each class has a probability of its own."""
        return self.config.dataset.multi_label is True

    def require_head(self) -> None:
        """Raise `UserError` if the model was pre-trained without labels, so that it predicts no classes."""
        if not self.classes:
            raise UserError(
                f"this model was pre-trained by {self.config.pretrain.method} and predicts no classes. Use its "
                "features (`probe`, `predict --features`, `predict --similar_to`, `export --outputs=features`), or "
                "fine-tune it with --config.init_from."
            )

    @property
    def decision_thresholds(self) -> tuple[float, ...] | None:
        """The probability from which each class is predicted; None for one label per image."""
        if not self.is_multi_label:
            return None
        return self.thresholds or (DEFAULT_THRESHOLD,) * len(self.classes)

    def probabilities(self, logits: jax.Array) -> jax.Array:
        """Return the probabilities of the classes: the softmax or, for any number of labels per image, the sigmoid."""
        return jax.nn.sigmoid(logits) if self.is_multi_label else jax.nn.softmax(logits)

    def with_temperature(self, temperature: float) -> "TrainedModel":
        """Return the model with its logits divided by a temperature (Guo et al. 2017, section 4.2).

        The kernel and the bias of the head are divided, so that everything that uses the variables is calibrated.
        """
        params = self.variables["params"]
        head = jax.tree.map(lambda array: array / temperature, params["head"])
        variables = {**self.variables, "params": {**params, "head": head}}
        return dataclasses.replace(self, variables=variables, temperature=self.temperature * temperature)

    def predict(self, images: np.ndarray | Sequence[str | os.PathLike]) -> Predictions:
        """Classify any number of images, in this process alone.

        Images are cropped and resized as `feed_config.external_examples` describes. A few compiled programs serve any
        number of images.

        Args:
          images: uint8 [n, height, width, channels] with 1 or 3 channels, or paths of image files.

        Raises:
          UserError: for a file that cannot be read, for images that do not fit the model, and if the model has no head.
        """
        self.require_head()
        examples: EvaluationData
        if isinstance(images, np.ndarray | jax.Array):
            images = np.asarray(images)
            self._check_array(images)
            examples = self._in_memory_examples(images)
        else:
            images = [images] if isinstance(images, str | os.PathLike) else list(images)
            examples = self.examples(images)
        batches = [np.empty((0, len(self.classes)), np.float32)]
        for outputs in self.outputs(examples):
            for index, reason in outputs.problems.items():
                raise UserError(f"{images[sum(map(len, batches)) + index]} cannot be read: {reason}")
            batches.append(outputs.probabilities)
        probabilities = np.concatenate(batches)
        if self.is_multi_label:
            decided = probabilities >= np.asarray(self.decision_thresholds)
            names = [", ".join(self.classes[label] for label in np.flatnonzero(row).tolist()) for row in decided]
            return Predictions(probabilities, decided, tuple(names))
        labels = probabilities.argmax(axis=-1).astype(np.int32)
        return Predictions(probabilities, labels, tuple(self.classes[label] for label in labels))

    def explain(
        self, images: np.ndarray, method: str = "grad_cam", target: str | None = None, stage: str | None = None
    ) -> np.ndarray:
        """Return how important each pixel is for a class, according to an attribution method.

        Args:
          images: uint8 [n, height, width, channels] with 1 or 3 channels.
          method: a key of `attribution.methods.METHODS`.
          target: the name of the class; None: the predicted class of each image. If several classes have this name, the
            label belongs to it, as in "crane (label 134)".
          stage: the stage whose output class activation maps are sums of, such as "stage3"; None: the last one.

        Returns:
          float32 [n, height, width], in the geometry of `images`. Pixels that evaluation crops away are zero.

        Raises:
          UserError: if there is no such method, class or stage; and as `predict` does.

        Example:
          >>> run = load_run("/tmp/digits")  # doctest: +SKIP
          >>> run.explain(np.zeros((2, 8, 8, 1), np.uint8), "integrated_gradients").shape  # doctest: +SKIP
          (2, 8, 8)
        """
        images = np.asarray(images)
        self._check_array(images)
        self.check_attribution((method,), target, stage)
        height, width = images.shape[1:3]
        if not len(images):
            return np.empty((0, height, width), np.float32)
        examples = self.subset_examples(image_subset(UnlabeledImages(images, images.shape[-1])))
        box = examples.box(height, width)
        return np.stack(
            [
                crops.to_original(values, box, height, width)
                for batch in self.attributions(examples, (method,), target, stage)
                for values in batch.maps[method][: batch.num_images]
            ]
        )

    def examples(self, files: Sequence[str | os.PathLike | bytes], num_workers: int = 0) -> StreamedExamples:
        """Open image files, which are read when they are needed.

        Args:
          files: paths or contents of image files.
          num_workers: number of processes that read them; 0: threads of this process.

        Raises:
          UserError: if the model takes images in their original size (`dataset.image_size` is None), and none of the
            images can be read.
        """
        return self.subset_examples(
            image_subset(UnlabeledImages(files, channels=len(self.preprocess.mean))), num_workers
        )

    def subset_examples(self, subset: Subset, num_workers: int = 0) -> StreamedExamples:
        """Return the examples of a subset in the size that the model takes; see `feed_config.external_examples`."""
        # No reporter counts the images that cannot be read: the caller finds them in `Outputs.problems`.
        return feed_config.external_examples(self.config.dataset, subset, num_workers, reporter=None)

    def outputs(self, examples: EvaluationData) -> Iterator[Outputs]:
        """Yield the outputs for all examples in order, one batch at a time. Memory holds the images of a few batches.

        Raises:
          UserError: if the model is on devices of other processes, too.
        """
        unfinished: collections.deque[tuple[BatchInfo, tuple[jax.Array, jax.Array]]] = collections.deque()
        for images, info in self._placed_batches(examples, MAX_BATCH_PER_DEVICE):
            unfinished.append((info, self._forward(self.variables, images)))
            if len(unfinished) > parallel.CALLS_AHEAD:
                yield _fetch_outputs(*unfinished.popleft())
        while unfinished:
            yield _fetch_outputs(*unfinished.popleft())

    def attributions(
        self, examples: EvaluationData, methods: Sequence[str], target: str | None = None, stage: str | None = None
    ) -> Iterator[Attributions]:
        """Iterate over the maps of all examples in order, one batch at a time.

        Args:
          examples: the examples.
          methods, target, stage: see `explain`.

        Raises:
          UserError: as `explain` and `outputs` do.
        """
        self.check_attribution(methods, target, stage)
        target_index = None if target is None else self.class_names.index(target)
        return self._attributions(examples, methods, target_index, stage)

    def check_attribution(self, methods: Sequence[str], target: str | None, stage: str | None) -> None:
        """Raise `UserError` if there is no such method, class or stage; see `explain`."""
        self.require_head()
        attribution_methods.check(methods)
        if stage is not None:
            self.attribution_model.check_stage(stage)
        if target is not None and target not in self.class_names:
            raise unknown_name("class", target, self.class_names)

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The names of the classes, with the label added to those that several classes have."""
        return class_matching.distinct(self.classes)

    def _attributions(
        self, examples: EvaluationData, methods: Sequence[str], target: int | None, stage: str | None
    ) -> Iterator[Attributions]:
        model = self.attribution_model
        for pixels, info in self._placed_batches(examples, MAX_ATTRIBUTION_BATCH_PER_DEVICE):
            images = self._normalize(pixels)
            attribution_methods.check_stage_resolution(model, methods, images.shape, stage)
            logits = model.logits(images)
            targets = jnp.argmax(logits, axis=-1) if target is None else jnp.full(len(logits), target)
            computed = {name: attribution_methods.attribute(model, name, images, targets, stage) for name in methods}
            computed_gaps = {
                name: find_gaps(model, images, targets, computed[name])
                for name in methods
                if (find_gaps := attribution_methods.METHODS[name].completeness_gaps)
            }
            probabilities, maps, gaps = parallel.fetch((self.probabilities(logits), computed, computed_gaps))
            if not np.isfinite(probabilities).all():
                raise UserError("the probabilities of this model are not finite. Choose another run or other weights.")
            num_images = int(np.count_nonzero(info.positions != NO_POSITION))
            maps = {name: maps[name] for name in methods}  # Fetching has sorted them by name.
            yield Attributions(num_images, images, targets, probabilities, maps, gaps, _problems(info, num_images))

    @functools.cached_property
    def attribution_model(self) -> AttributionModel:
        """The model as attribution methods use it."""
        return AttributionModel(self.model, self.variables, self.mesh, self.probabilities)

    def on_local_devices(self) -> "TrainedModel":
        """Return this model on the devices of this process alone."""
        if len(self.mesh.local_devices) == self.mesh.size:
            return self
        mesh = parallel.make_mesh(jax.local_devices())
        variables = parallel.place(parallel.fetch(self.variables), parallel.replicated(mesh))
        return dataclasses.replace(self, variables=variables, mesh=mesh)

    @functools.cached_property
    def _normalize(self) -> Callable[[jax.Array], jax.Array]:
        """Function from uint8 images to the input of the model."""
        return parallel.jit(self.preprocess, self.mesh, parallel.batch_sharded(self.mesh))

    def _placed_batches(self, examples: EvaluationData, max_per_device: int) -> Iterator[tuple[jax.Array, BatchInfo]]:
        """Yield the images of all examples, on the devices, and the `BatchInfo` of each batch."""
        if len(self.mesh.local_devices) < self.mesh.size:
            raise UserError(
                "this model is on the devices of several processes, but prediction runs in a single one. Load it with "
                "load_run(workdir, parallel.make_mesh(jax.local_devices()))."
            )
        batch_size = self._batch_size(len(examples), max_per_device)
        for images, info in examples.batches(batch_size, parallel.local_rows(self.mesh, batch_size)):
            yield parallel.place_rows(images, self.mesh, batch_size), info

    @functools.cached_property
    def _forward(self) -> Callable[[dict, jax.Array], tuple[jax.Array, jax.Array]]:
        """Function from variables and uint8 images to probabilities and features, compiled once per image shape."""

        def forward(variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, features = self.model.apply(variables, self.preprocess(images), train=False, return_features=True)
            return self.probabilities(logits), features["pooled"]

        return parallel.jit(forward, self.mesh)

    def _batch_size(self, num_images: int, max_per_device: int) -> int:
        """Choose a batch size over all devices.

        Up to the limit, it is a power of two per device, so that few programs serve any number of images.
        """
        num_devices = self.mesh.size
        needed = math.ceil(max(num_images, 1) / num_devices)
        power_of_two = 1 << (needed - 1).bit_length()
        training_batch = math.ceil(settings.microbatch_size(self.config) / num_devices)
        return num_devices * min(power_of_two, training_batch, max_per_device)

    def _check_array(self, images: np.ndarray) -> None:
        """Raise `UserError` if images in memory do not fit the model."""
        if images.dtype != np.uint8 or images.ndim != 4:
            raise UserError(
                f"images have the wrong type or shape ({images.dtype} {list(images.shape)}). They must be uint8 "
                "[n, height, width, channels]."
            )
        channels = len(self.preprocess.mean)
        if images.shape[-1] not in (1, channels):  # Gray images are converted to three channels.
            kind = "gray images with 1 channel" if channels == 1 else f"images with {channels} channels"
            raise UserError(f"images have the wrong number of channels ({images.shape[-1]}). This model takes {kind}.")

    def _in_memory_examples(self, images: np.ndarray) -> InMemoryExamples:
        positions = np.arange(len(images))
        if len(images):
            # Resize all images here and at once: for a few images, starting the prefetching would take longer.
            examples = self.subset_examples(image_subset(UnlabeledImages(images, images.shape[-1])))
            images = examples.images_at(positions)
        return InMemoryExamples(images, np.zeros(len(images), np.int32), positions)


def load_run(workdir: str, mesh: Mesh | None = None, calibrated: bool = True) -> TrainedModel:
    """Load the trained model of a run directory.

    Its variables come from the checkpoint with the best validation metric, or from the newest checkpoint if the run has
    no validation metrics (yet).

    Args:
      workdir: the run directory.
      mesh: the devices; default: all devices, whatever devices the model was trained on.
      calibrated: whether to apply the temperature of a calibrated run; see `evaluation.calibration`.

    Raises:
      UserError: if `workdir` is not a run directory, has no checkpoint yet, or its checkpoint is damaged.

    Example:
      >>> run = load_run("/tmp/digits")  # doctest: +SKIP
      >>> run.predict(np.zeros((2, 8, 8, 1), np.uint8)).probabilities.shape  # doctest: +SKIP
      (2, 10)
    """
    directory = WorkDir(workdir)
    checkpoint = directory.config().checkpoint
    mesh = mesh or parallel.make_mesh()
    with directory.open_checkpoints(checkpoint.keep, checkpoint.best_metric, read_only=True) as checkpoints:
        trained = restore_chosen(directory, checkpoints, mesh)
    thresholds = directory.thresholds()
    if thresholds and _belongs_to(trained, thresholds, f"The thresholds of {directory.path} are", "Finish the run."):
        by_class = thresholds["thresholds"]
        trained = dataclasses.replace(trained, thresholds=tuple(by_class[name] for name in trained.classes))
    calibration = directory.calibration() if calibrated else None
    if calibration and _belongs_to(
        trained, calibration, f"The calibration of {directory.path} is", "Calibrate the run again."
    ):
        trained = trained.with_temperature(calibration["temperature"])
    return trained


def _belongs_to(trained: TrainedModel, fitted: dict, subject: str, remedy: str) -> bool:
    """Return whether a calibration or thresholds belong to this checkpoint; if not, warn that they are not used."""
    fits = fitted["checkpoint_step"] == trained.step
    if not fits:
        logger.warning(
            f"{subject} not used, because the checkpoint is of step {trained.step:,}, not of step "
            f"{fitted['checkpoint_step']:,}. {remedy}"
        )
    return fits


def restore_chosen(directory: WorkDir, checkpoints: Checkpoints, mesh: Mesh | None = None) -> TrainedModel:
    """Restore the checkpoint that `load_run` chooses, without the thresholds and the temperature that it adds.

    If the checkpoints are open for writing and the best one is damaged, it is set aside, and the next best is restored.
    """
    config, classes = directory.config(), directory.classes()
    model = factory.from_config(config, len(classes))
    mesh = mesh or parallel.make_mesh()
    saved = abstract_variables(pretraining_model.model_of_run(config, len(classes)), len(config.dataset.mean))
    variables = parallel.abstract(saved, parallel.replicated(mesh))
    if checkpoints.latest_step() is None:
        raise UserError(f"{directory.path} has no checkpoint yet. Train it first.")
    if config.ema_decay is None or pretraining_methods.has_target(config.pretrain):
        step, variables, metadata = checkpoints.restore_chosen(variables)
    else:
        step, items, metadata = checkpoints.restore_chosen({"ema": {"batch_stats": {}, **variables}})
        variables = items["ema"]
    if config.pretrain.method is not None:
        variables = pretraining_model.without_added_modules(variables)
    return TrainedModel(
        config,
        classes,
        model,
        variables,
        Preprocess.from_config(config.dataset),
        step,
        mesh,
        validation=checkpoints.metrics.for_step(step),
        commit=metadata.get("provenance", {}).get("commit"),
    )


def abstract_variables(model: nn.Module, channels: int) -> dict:
    """Return the shapes and dtypes of a model's variables, for images with this number of channels."""
    images = jnp.zeros((1, 32, 32, channels))  # The height and width make no difference.
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


def image_subset(source: UnlabeledImages) -> Subset:
    """Return all images of a source."""
    return Subset({"": source}, np.zeros(len(source), np.int64), np.arange(len(source)))


def _fetch_outputs(info: BatchInfo, outputs: tuple[jax.Array, jax.Array]) -> Outputs:
    """Fetch the outputs of a batch, without its padding rows."""
    num_images = int(np.count_nonzero(info.positions != NO_POSITION))
    probabilities, features = parallel.fetch(outputs)
    return Outputs(probabilities[:num_images], features[:num_images], _problems(info, num_images))


def _problems(info: BatchInfo, num_images: int) -> dict[int, str]:
    """Return why images of a batch cannot be read, by the index of their row."""
    unreadable = np.flatnonzero(info.labels[:num_images] == NO_LABEL).tolist()
    reasons = [reason for _, reason in info.problems]
    return dict(zip(unreadable, reasons, strict=True))
