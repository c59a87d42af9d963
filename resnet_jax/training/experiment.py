"""Everything a run needs before its first step, built from the config: data, model, preprocessing, loss, optimizer."""

import dataclasses
import fnmatch
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax import config_check, randomness
from resnet_jax.data import feed_config, partition, sampling, splits
from resnet_jax.data.abstract_dataset import describe_abstract_dataset
from resnet_jax.data.augment import geometry, pipeline
from resnet_jax.data.augment.pipeline import Augment
from resnet_jax.data.dataset import Dataset, open_dataset
from resnet_jax.data.feed import EvaluationData, Feed, Inputs
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.sampling import ClientSampler
from resnet_jax.data.sources import Source
from resnet_jax.errors import UserError, unknown_name
from resnet_jax.evaluation import tta
from resnet_jax.models import factory
from resnet_jax.models.layers import NORMS_WITH_SCALE
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.whitening import patch_whitening_kernel
from resnet_jax.pretrained.load import Pretrained, address_of_initial_weights, load_teacher, open_initial_weights
from resnet_jax.randomness import Use
from resnet_jax.runtime import parallel
from resnet_jax.selfsupervised import pretraining_methods, pretraining_model
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import abstract_variables
from resnet_jax.training import early_stopping, losses, optimizer, pretraining, progressive_resizing
from resnet_jax.training.distillation import Teacher, make_teacher
from resnet_jax.training.freezing import Freezing, merge
from resnet_jax.training.losses import Loss
from resnet_jax.training.state import TrainState, create_train_state, train_state_from_variables
from resnet_jax.workdir.checkpoints import Checkpoints, digest_of_arrays

# The upper limit of the default of `steps_per_call`: large enough to hide the cost of launching a call, and small
# enough that a run with short steps responds to Ctrl-C within a second.
MAX_STEPS_PER_CALL = 32
PIXELS_FOR_WHITENING = 2**20  # the largest number of pixels from which the kernel of a whitening stem is computed

logger = logging.getLogger(__name__)


class Call(NamedTuple):
    """A kind of call of the train step, which is compiled once per kind.

    Attributes:
      num_steps: the number of steps that the call takes.
      image_size: the size in pixels to which it resizes the images; None: the size of `Experiment.preprocess`.
    """

    num_steps: int = 1
    image_size: int | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The settings of a run, and all that is built from them. Use `build` to create one.

    Attributes:
      config: the resolved settings. From them, an equal experiment can be built again.
      classes: class names, by label.
      mesh: the devices. The state is replicated over them, and batches are split.
      feed: the training examples.
      validation: the validation examples; None if there are none.
      model: the Linen module.
      preprocess: resizing and normalization.
      augment: maps (key, images, labels) to augmented images and labels.
      second_augment: in pre-training, the augmentation of the second view of each image; otherwise None.
      loss: maps (logits, labels) to the mean loss.
      class_weights: the factors on the loss by class that `loss` has; None if there are none.
      optimizer: maps gradients of the trainable parameters to updates.
      schedule: the optimizer's learning rate as a function of the step, for the log.
      freezing: selects the parameters that are not trained.
      label_sets: bool [sets, classes], for several labels per image; see `Source`. None: one label per image.
      teacher: the model to distill from; None if there is none.
      pretrained: the initial weights, if the run is new and `config.init_from` names a weights file.
      content_digests: those of the `Dataset` and, if there is a teacher, a hash of its variables.
      bank: in pre-training, training examples among which nearest neighbors are searched; otherwise None.
      clients: in a federated run, the examples of each client; otherwise None. See `federated_experiment`.
    """

    config: ConfigDict
    classes: tuple[str, ...]
    mesh: Mesh
    feed: Feed
    validation: EvaluationData | None
    model: ResNet
    preprocess: Preprocess
    augment: Augment
    loss: Loss
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    freezing: Freezing
    class_weights: np.ndarray | None = None
    label_sets: np.ndarray | None = None
    teacher: Teacher | None = None
    pretrained: Pretrained | None = None
    content_digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    second_augment: Augment | None = None
    bank: EvaluationData | None = None
    clients: ClientSampler | None = None

    # --- Steps and calls. A call of the compiled step takes one or several steps.

    @property
    def total_steps(self) -> int:
        return self.config.num_epochs * self.feed.steps_per_epoch

    @property
    def split_sizes(self) -> dict[str, int]:
        """The number of training and validation examples."""
        return {"training": self.feed.size, "validation": 0 if self.validation is None else len(self.validation)}

    def call(self, step: int) -> Call:
        """Return the call that begins at `step`.

        It takes `config.steps_per_call` steps, or 1 if fewer than that are left in the epoch.
        """
        left_in_epoch = self.feed.steps_per_epoch - step % self.feed.steps_per_epoch
        num_steps = self.config.steps_per_call if self.config.steps_per_call <= left_in_epoch else 1
        return Call(num_steps, self.image_size(step // self.feed.steps_per_epoch))

    def calls_of_epoch(self, step: int) -> Iterator[tuple[int, Call]]:
        """Yield the first step of each call from `step` to the end of its epoch, and the call."""
        end = (step // self.feed.steps_per_epoch + 1) * self.feed.steps_per_epoch
        while step < end:
            call = self.call(step)
            yield step, call
            step += call.num_steps

    def calls(self, step: int = 0) -> list[Call]:
        """Return the distinct calls of the run from `step` on."""
        epochs = range(step // self.feed.steps_per_epoch, self.config.num_epochs)
        image_sizes = dict.fromkeys(map(self.image_size, epochs))
        full_calls, single_steps = divmod(self.feed.steps_per_epoch, self.config.steps_per_call)
        lengths = ([self.config.steps_per_call] if full_calls else []) + ([1] if single_steps else [])
        return [Call(num_steps, image_size) for image_size in image_sizes for num_steps in lengths]

    def image_size(self, epoch: int) -> int | None:
        """Return the size of the training images in an epoch; None: that of `preprocess`."""
        phases = progressive_resizing.parse(self.config.augment.progressive_resizing)
        return progressive_resizing.image_size(phases, epoch / self.config.num_epochs)

    def resizing_to(self, image_size: int | None) -> "Experiment":
        """Return this experiment with another size of the training images; None: unchanged."""
        if image_size is None:
            return self
        return dataclasses.replace(self, preprocess=dataclasses.replace(self.preprocess, image_size=image_size))

    # --- Batches.

    def batch(self, inputs: Inputs, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the augmented images, not normalized, and the labels of a step. Pure, for use in compiled functions.

        In pre-training, the images are two views of each image: [batch, 2, height, width, channels].

        Args:
          inputs: what `Feed.inputs` returned for the call to which the step belongs.
          step: int32.
        """
        images, labels, positions = self.feed.take(inputs, step)
        if self.config.augment.alternating_flip:
            key, epoch = randomness.key(self.config.seed, Use.FLIPPING), step // self.feed.steps_per_epoch
            images = geometry.alternating_flip(key, images, positions, epoch)
        if self.label_sets is not None:
            labels = jnp.asarray(self.label_sets)[labels].astype(jnp.float32)
        key = randomness.key(self.config.seed, Use.AUGMENTATION, step)
        if self.second_augment is not None:
            return pretraining.augment_views(self.augment, self.second_augment, key, images), labels
        return self.augment(key, images, labels)

    @functools.cached_property
    def compiled_batch(self) -> Callable[[Inputs, int], tuple[jax.Array, jax.Array]]:
        """The method `batch`, compiled on its own, with results replicated on every device."""
        return parallel.jit(self.batch, self.mesh)

    def batch_at(self, step: int) -> tuple[jax.Array, jax.Array]:
        """Return the augmented images and the labels of a step, for use outside of compiled functions."""
        return self.compiled_batch(self.feed.inputs(step), step)

    # --- State.

    def ema_decay(self, step: jax.Array) -> jax.Array:
        """Return the decay of the moving averages at a step, if the run keeps any.

        It is `config.ema_decay`, but at most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage, so
        that the initial weights soon lose their influence. For the target of a self-supervised method, it instead rises
        from `config.ema_decay` to 1 along a cosine (Grill et al. 2020, section 3.3).
        """
        decay = self.config.ema_decay
        if not pretraining_methods.has_target(self.config.pretrain):
            return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
        return 1 - (1 - decay) * (jnp.cos(jnp.pi * step / self.total_steps) + 1) / 2

    def evaluated_variables(self, state: TrainState) -> dict:
        """Return the variables to evaluate: the moving averages, or the trained variables.

        The latter if the run keeps no averages, or keeps them only as a target.
        """
        return state.variables if not pretraining_methods.has_target(self.config.pretrain) else state.online_variables

    def initial_state(self) -> TrainState:
        """Return the state before the first step, on all devices.

        A whitening stem gets its kernel from the data. Pretrained weights that fit the model replace all others.
        Do not wrap this in `jax.jit`; see `create_train_state`.
        """
        initial = self._create_state()
        replacements: dict = {}
        if self.model.stem == "whitening":
            replacements = {"params": {"stem_conv": {"kernel": self._whitening_kernel()}}}
        if self.config.init_from:
            # `build` opens the weights only for a new run. A resumed run without a checkpoint needs them as well.
            weights = self.pretrained or open_initial_weights(self.config)
            channels = len(self.config.dataset.mean)
            model = factory.from_config(self.config, len(self.classes))  # In pre-training, the ResNet alone.
            variables, report = weights.variables(model, channels, self.classes, self.config.init_skip)
            logger.info(f"Weights of {weights.path}: {report}")
            if weights.classes is None and "head" in variables["params"]:
                logger.info(
                    "The head of these weights is loaded too. "
                    "To start from a new head, use --config.init_skip=\"('head*',)\"."
                )
            replacements = merge(replacements, variables)
        if replacements:
            variables = merge({"params": initial.params, "batch_stats": initial.batch_stats}, replacements)
            use_ema = self.config.ema_decay is not None
            initial = train_state_from_variables(variables, self.optimizer, self.freezing, use_ema)
        return parallel.place(initial, parallel.replicated(self.mesh))

    def _whitening_kernel(self, step: int = 0) -> np.ndarray:
        """Return the kernel of the whitening stem for images of a step, normalized as they come from the feed.

        Of the augmentations, only crops on the host have been done.
        """

        def first_images(inputs: Inputs) -> jax.Array:
            images = self.preprocess(self.feed.take(inputs, jnp.int32(step)).images)
            return images[: max(1, PIXELS_FOR_WHITENING // math.prod(images.shape[1:3]))]

        return patch_whitening_kernel(parallel.fetch(parallel.jit(first_images, self.mesh)(self.feed.inputs(step))))

    def abstract_state(self) -> TrainState:
        """Return the shapes, dtypes and shardings of the state: the target of restoring a checkpoint."""
        return parallel.abstract(jax.eval_shape(self._create_state), parallel.replicated(self.mesh))

    def restore_newest(self, checkpoints: Checkpoints) -> tuple[int, TrainState, dict]:
        """Restore the newest intact checkpoint. At least one checkpoint must exist.

        Returns:
          The number of steps taken, the state, and the metadata that `Loop` saved with it (JSON values).
        """
        step, items, metadata = checkpoints.restore_newest(self.abstract_state().checkpoint_items)
        step_on_devices = parallel.place(np.int32(step), parallel.replicated(self.mesh))
        return step, TrainState(step=step_on_devices, **items), metadata

    def _create_state(self) -> TrainState:
        # Preprocessing can turn grayscale images into three channels, so the model gets as many channels as `mean` has.
        image_shape = (*self.feed.image_shape[:2], len(self.config.dataset.mean))
        return create_train_state(
            self.model,
            self.optimizer,
            image_shape,
            self.config.seed,
            self.freezing,
            use_ema=self.config.ema_decay is not None,
        )


# --- Building an experiment -------------------------------------------------------------------------------------------


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Raise `UserError` for settings that cannot work, before anything is compiled or downloaded."""
    config_check.check(config)
    parallel.check_batch_size(config.batch_size, mesh, config.optimizer.accumulate_steps)
    _warn_of_groups_across_slices(config, mesh)
    optimizer.check(config)
    losses.from_config(config.loss)
    losses.check_class_weights(config.loss.class_weights)
    early_stopping.check(config)
    pretraining.check(config)
    if config.tta is not None and config.tta not in tta.AUGMENTATIONS:
        raise unknown_name("tta", config.tta, tta.AUGMENTATIONS)
    splits.check(config.dataset)
    partition.check(config.federated)
    sampling.check(config.dataset)
    feed_config.check(config.dataset)
    pipeline.check(config.augment, config.batch_size)
    progressive_resizing.parse(config.augment.progressive_resizing)
    if config.loss.distill_model:
        factory.create_model(config.loss.distill_model, num_classes=1)
    if config.init_from:
        address_of_initial_weights(config)
    model = factory.from_config(config, num_classes=1)
    if config.optimizer.fixed_kernel_norm and model.norm not in NORMS_WITH_SCALE:
        raise UserError(
            f"optimizer.fixed_kernel_norm works only with norms after convolutions, and this model has {model.norm} "
            "instead. Set optimizer.fixed_kernel_norm=False."
        )
    is_frozen = any(fnmatch.fnmatchcase("stem_conv/kernel", pattern) for pattern in config.freeze)
    if config.optimizer.fixed_kernel_norm and model.stem == "whitening" and not is_frozen:
        raise UserError(
            "optimizer.fixed_kernel_norm would change the scale of the whitening stem, which no norm follows. Add "
            "'stem_conv/kernel' to freeze, or set optimizer.fixed_kernel_norm=False."
        )
    if config.ema_recalibrate_steps and (config.ema_decay is None or model.norm != "batch_norm"):
        raise UserError(
            f"ema_recalibrate_steps needs ema_decay and a model with batch_norm (ema_decay is {config.ema_decay}, the "
            f"norm is {model.norm}). Set ema_recalibrate_steps=0."
        )
    if config.freeze and model.scan_blocks:
        raise UserError(
            "freeze does not work with model.scan_blocks. Set model.scan_blocks=False or leave freeze empty."
        )


def _warn_of_groups_across_slices(config: ConfigDict, mesh: Mesh) -> None:
    group_size, slices = config.batch_norm.group_size, parallel.num_slices(mesh.devices.flat)
    if group_size and slices > 1 and config.batch_size // slices % group_size:
        logger.warning(
            f"Some BatchNorm groups lie in two slices, which is slow: batch_norm.group_size ({group_size}) does not "
            f"divide the {config.batch_size // slices} examples of a slice."
        )


def build(
    config: ConfigDict, mesh: Mesh, sources: Mapping[str, Source], reporter: Reporter, is_new: bool = True
) -> Experiment:
    """Open the data, resolve the settings that `config` leaves open, and build the experiment.

    Args:
      config: settings that `check` accepts; they are copied.
      mesh: the devices to train on.
      sources: the data, one source for each split that the dataset itself provides, such as "train" and "test".
      reporter: shows progress while images are read, and counts unreadable ones.
      is_new: whether the run is new. An existing run already has resolved settings and usually a checkpoint, so the
        pretrained weights are not opened.

    Raises:
      UserError: if data, model and settings do not go together.
    """
    config = config.copy_and_resolve_references()
    pretrained = _open_pretrained(config) if is_new else None
    if config.pretrain.method is not None:
        sources = pretraining.without_labels(config.dataset, sources)
        early_stopping.check(config)
    dataset = open_dataset(config, sources, mesh, reporter, is_new)
    return assemble(config, mesh, dataset, pretrained)


def build_abstract(config: ConfigDict, mesh: Mesh) -> Experiment:
    """Build an experiment without training data, whose train step can be compiled but not run.

    The devices of the mesh need not exist; see `tpu_topology.describe`.
    """
    config = config.copy_and_resolve_references()
    pretrained = _open_pretrained(config)
    return assemble(config, mesh, describe_abstract_dataset(config, mesh), pretrained)


def assemble(config: ConfigDict, mesh: Mesh, dataset: Dataset, pretrained: Pretrained | None = None) -> Experiment:
    """Build the experiment for an open dataset. Set `config.steps_per_call` if it is None."""
    feed = dataset.feed
    if config.steps_per_call is None:
        config.steps_per_call = _default_steps_per_call(feed, mesh) if dataset.clients is None else 1
    if config.steps_per_call > 1 and not feed.supports_several_steps:
        raise UserError(
            f"steps_per_call ({config.steps_per_call}) must be 1 for a streaming feed. Leave steps_per_call unset."
        )
    preprocess = Preprocess.from_config(config.dataset)
    preprocess.check(feed.image_shape[-1])
    is_pretraining = config.pretrain.method is not None
    model = pretraining_model.model_of_run(config, len(dataset.classes))
    freezing = Freezing(config.freeze)
    if config.freeze or config.optimizer.rate_factors:
        params = abstract_variables(model, len(config.dataset.mean))["params"]
        freezing.check(params)
        optimizer.check_rate_factors(config.optimizer.rate_factors, freezing.split(params)[0])
    schedule = optimizer.make_schedule(config, feed.steps_per_epoch)
    if dataset.clients is not None:
        schedule = optimizer.by_round(schedule, dataset.clients.steps_per_visit, dataset.clients.clients)
    if dataset.label_sets is not None:
        losses.check_multi_label(config)
    else:
        for key in ("checkpoint.best_metric", "early_stopping.metric"):
            if settings.get(config, key) == "map":
                raise UserError(f"{key}=map needs images with any number of labels. Choose top1 or loss.")
    for key in ("checkpoint.best_metric", "early_stopping.metric"):
        if dataset.validation is not None and is_pretraining != (settings.get(config, key) == "knn"):
            metrics = "knn" if is_pretraining else "top1, loss or map"
            raise UserError(f"{key} ({settings.get(config, key)}) must be {metrics} in this run. Set it.")
    class_weights = losses.resolve_class_weights(config.loss.class_weights, len(dataset.classes), dataset.labels)
    content_digests = dict(dataset.content_digests)
    teacher = _open_teacher(config, dataset, mesh) if config.loss.distill_from else None
    if teacher:
        content_digests["teacher"] = digest_of_arrays(teacher.variables)

    def make_augment(augment: ConfigDict) -> Augment:
        return pipeline.from_config(
            augment,
            len(dataset.classes),
            fill=preprocess.mean_pixel(feed.image_shape[-1]),
            crops_on_host=feed.crops_on_host,
            image_size=preprocess.image_size,
        )

    return Experiment(
        config=config,
        classes=() if is_pretraining else dataset.classes,
        mesh=mesh,
        feed=feed,
        validation=dataset.validation,
        model=model,
        preprocess=preprocess,
        augment=make_augment(config.augment),
        loss=losses.from_config(config.loss, class_weights),
        class_weights=class_weights,
        optimizer=optimizer.make_optimizer(config, schedule, model.stage_sizes),
        schedule=schedule,
        freezing=freezing,
        label_sets=dataset.label_sets,
        teacher=teacher,
        pretrained=pretrained,
        content_digests=content_digests,
        second_augment=make_augment(pretraining.second_augmentation(config)) if is_pretraining else None,
        bank=dataset.bank,
        clients=dataset.clients,
    )


def _open_pretrained(config: ConfigDict) -> Pretrained | None:
    """Open the initial weights, if any, and fill in the unset image settings (mean, std, size) that they determine."""
    if not config.init_from:
        return None
    weights = open_initial_weights(config)
    line = weights.fill(config.dataset)
    if line:
        logger.info(line)
    return weights


def _open_teacher(config: ConfigDict, dataset: Dataset, mesh: Mesh) -> Teacher:
    # Devices from `tpu_topology.describe` may not exist, and then cannot hold the variables of the teacher.
    devices_exist = mesh.devices.flat[0] in jax.devices()
    trained = load_teacher(config, dataset.classes, mesh if devices_exist else parallel.make_mesh())
    trained.preprocess.check(dataset.feed.image_shape[-1])
    return make_teacher(config.loss, trained)


def _default_steps_per_call(feed: Feed, mesh: Mesh) -> int:
    """Return 1 for a streaming feed and on CPU, where convolutions are slow in a loop; else `_most_steps_per_call`."""
    if not feed.supports_several_steps or mesh.devices.flat[0].platform == "cpu":
        return 1
    return _most_steps_per_call(feed.steps_per_epoch)


def _most_steps_per_call(steps_per_epoch: int) -> int:
    """Return the largest divisor of `steps_per_epoch` up to `MAX_STEPS_PER_CALL`.

    If that divisor is less than a quarter of `MAX_STEPS_PER_CALL`, return `MAX_STEPS_PER_CALL`, or `steps_per_epoch` if
    that is smaller. The calls then take the remaining steps of an epoch one by one.
    """
    divisors = [steps for steps in range(1, MAX_STEPS_PER_CALL + 1) if steps_per_epoch % steps == 0]
    return divisors[-1] if 4 * divisors[-1] >= MAX_STEPS_PER_CALL else min(MAX_STEPS_PER_CALL, steps_per_epoch)
