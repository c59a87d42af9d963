"""Self-supervised pre-training within a run: its settings, the two views of each image, and the loss of a batch."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax.data.augment.pipeline import Augment
from resnet_jax.data.sources import Source, WithoutLabels
from resnet_jax.data.splits import NO_SPLIT
from resnet_jax.errors import UserError
from resnet_jax.selfsupervised import embeddings, pretraining_methods
from resnet_jax.selfsupervised.pretraining_model import Embeddings
from resnet_jax.selfsupervised.view_losses import Views
from resnet_jax.training.state import Metrics

# Settings that have no meaning without labels, and the values that they must have.
NEED_LABELS = {
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
    "dataset.sampler": "uniform",
    "dataset.test_split": NO_SPLIT,
    "loss.class_weights": None,
    "loss.distill_from": None,
    "tta": None,
}


def check(config: ConfigDict) -> None:
    """Raise `UserError` if the settings do not work with `pretrain.method`."""
    if config.pretrain.method is None:
        return
    method = pretraining_methods.find(config.pretrain.method)
    for key, value in NEED_LABELS.items():
        if settings.get(config, key) != value:
            raise UserError(f"{key} needs labels, which pre-training does not use. Set {key}={value!r}.")
    if config.augment.repeats > 1:
        raise UserError("pre-training makes two views of each image, and compares images. Set augment.repeats=1.")
    if config.augment.alternating_flip:
        raise UserError(
            "augment.alternating_flip would give both views the same flip. Set augment.horizontal_flip=True instead."
        )
    if config.optimizer.accumulate_steps != 1:
        raise UserError(
            "pre-training compares all images of a batch, so it needs optimizer.accumulate_steps=1. Lower batch_size "
            "to save memory."
        )
    if method.has_target and config.ema_decay is None:
        raise UserError(
            f"the target of {config.pretrain.method} is a moving average. Set its decay, such as ema_decay=0.99."
        )
    if method.has_target and config.ema_recalibrate_steps:
        raise UserError("the moving average is only a target in pre-training. Set ema_recalibrate_steps=0.")
    for name in ("projector", "predictor"):
        widths = config.pretrain[name]
        if not all(isinstance(width, int) and width > 0 for width in widths):
            raise UserError(f"pretrain.{name} {widths} must be widths, such as '(2048, 2048)'.")
    if config.pretrain.predictor and not method.predictor:
        raise UserError(f"{config.pretrain.method} has no predictor. Leave pretrain.predictor empty.")


def without_labels(dataset: ConfigDict, sources: Mapping[str, Source]) -> Mapping[str, Source]:
    """Return sources whose labels are never read, if nothing needs them. Resolve `dataset.validation_split` then.

    Labels serve only to validate by nearest neighbors. Without a validation split, nothing needs them.

    Raises:
      UserError: if a validation split is set, and the data has no labels, or any number of them per image.
    """
    has_classes = min(len(source.classes) for source in sources.values()) > 1
    one_label = all(getattr(source, "label_sets", None) is None for source in sources.values())
    if dataset.validation_split != NO_SPLIT and has_classes and one_label:
        return sources
    if dataset.validation_split not in ("", NO_SPLIT):
        raise UserError(
            f"validation by nearest neighbors needs one label per image (dataset.validation_split is "
            f"{dataset.validation_split!r}). Set dataset.validation_split=none."
        )
    dataset.validation_split = NO_SPLIT
    return {split: WithoutLabels(source) for split, source in sources.items()}


def second_augmentation(config: ConfigDict) -> ConfigDict:
    """Return the `augment` settings of the second view."""
    augment = config.augment.copy_and_resolve_references()
    for name in ("gaussian_blur", "solarize"):
        value = config.pretrain[f"second_{name}"]
        if value is not None:
            augment[name] = value
    return augment


def augment_views(first: Augment, second: Augment, key: jax.Array, images: jax.Array) -> jax.Array:
    """Return two augmented views of each image: [batch, 2, height, width, channels].

    Args:
      first, second: the augmentations of the first and of the second view.
      key: a PRNG key.
      images: uint8 [batch, height, width, channels].
    """
    labels = jnp.zeros(len(images), jnp.int32)
    keys = jax.random.split(key)
    views = [augment(key, images, labels)[0] for augment, key in zip((first, second), keys, strict=True)]
    return jnp.stack(views, axis=1)


def as_images(views: jax.Array) -> jax.Array:
    """Return views [batch, 2, ...] as images [2 * batch, ...], so that no image moves to another device."""
    return views.reshape(-1, *views.shape[2:])


def loss(pretrain: ConfigDict, online: Embeddings, apply_target: Callable[[], Embeddings]) -> tuple[jax.Array, Metrics]:
    """Return the mean loss of a batch, and metrics of its embeddings.

    Args:
      pretrain: the `pretrain` settings.
      online: outputs for the images that `as_images` returned.
      apply_target: returns the outputs of the moving average for the same images.

    Returns:
      The loss, and the float32 scalars `embedding_std` (see `embeddings.spread`) and `effective_rank`, both of the
      projections.
    """
    method = pretraining_methods.find(pretrain.method)
    target = apply_target() if method.has_target else online
    targets = jax.lax.stop_gradient(_views(target.projections))
    value = method.loss(_views(online.predictions), targets, pretrain.temperature)
    projections = jax.lax.stop_gradient(online.projections)
    return value, {
        "embedding_std": embeddings.spread(projections),
        "effective_rank": embeddings.effective_rank(projections),
    }


def passes(pretrain: ConfigDict) -> float:
    """Return how many forward and backward passes of the model a step takes per image; 1 without pre-training.

    The forward pass of a target is a third of that.
    """
    if pretrain.method is None:
        return 1.0
    return 2 * (1 + pretraining_methods.has_target(pretrain) / 3)


def _views(outputs: jax.Array) -> Views:
    """Separate what belongs to the two views: [2 * batch, width] of alternating views."""
    by_view = outputs.reshape(-1, 2, outputs.shape[-1])
    return Views(by_view[:, 0], by_view[:, 1])
