"""Loss functions, by name.

Every loss accepts two kinds of labels: class indices, int32 [batch], and soft targets that sum to one, float32
[batch, classes], such as those of mixup (Zhang et al. 2017). "softmax_cross_entropy_one_hot" is therefore only another
name for "softmax_cross_entropy".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from resnet_jax.data.subset import NO_LABEL
from resnet_jax.errors import UserError, unknown_name

Loss = Callable[[jax.Array, jax.Array], jax.Array]  # maps logits and labels to the mean loss of the batch


MIN_FOCAL_FACTOR = 1e-6  # lower bound of 1 - p in the focal loss, so that its gradient stays finite


def softmax_cross_entropy(
    logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0, focal_gamma: float = 0.0
) -> jax.Array:
    """Return the cross-entropy between the labels and the softmax over the classes.

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch] or float32 [batch, classes].
      label_smoothing: fraction of the target that is spread evenly over all classes (Szegedy et al. 2015, section 7).
      focal_gamma: if positive, the term of each class is multiplied by (1 - p) ** focal_gamma, where p is the
        probability of the class (Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4).

    Returns:
      float32 [batch], in nats.

    Example:
      >>> loss = softmax_cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))
      >>> print(f"{loss[0]:.4f}")  # log(4)
      1.3863
    """
    targets = _soft_targets(labels, logits.shape[-1], label_smoothing)
    if not focal_gamma:
        return optax.softmax_cross_entropy(logits, targets)
    log_probabilities = jax.nn.log_softmax(logits)
    factors = jnp.maximum(-jnp.expm1(log_probabilities), MIN_FOCAL_FACTOR) ** focal_gamma
    return -jnp.sum(targets * factors * log_probabilities, axis=-1)


def binary_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    target_threshold: float | None = None,
) -> jax.Array:
    """Return the cross-entropy of an independent sigmoid per class.

    See Beyer et al. 2020, "Are we done with ImageNet?", and Wightman et al. 2021, "ResNet strikes back", section 3.
    Wightman et al. use a threshold of 0.2: both classes of a mixed image then have a target of 1, unless the share of
    one of them is at most 0.2.

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch] or float32 [batch, classes].
      label_smoothing: see `softmax_cross_entropy`.
      focal_gamma: if positive, the term of each class is multiplied by (1 - p) ** focal_gamma, where p is the
        probability of the target; see `optax.sigmoid_focal_loss`.
      target_threshold: if set, smoothed targets strictly above this value become 1 and all others 0.

    Returns:
      float32 [batch], in nats: the mean over the classes, as in PyTorch and timm. big_vision uses the sum.

    Example:
      >>> loss = binary_cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))
      >>> print(f"{loss[0]:.4f}")  # log(2)
      0.6931
    """
    targets = _soft_targets(labels, logits.shape[-1], label_smoothing)
    if target_threshold is not None:
        targets = (targets > target_threshold).astype(logits.dtype)
    if focal_gamma:
        return optax.sigmoid_focal_loss(logits, targets, gamma=focal_gamma).mean(axis=-1)
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1)


LOSSES = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "softmax_cross_entropy_one_hot": softmax_cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}


def from_config(loss: ConfigDict, class_weights: np.ndarray | None = None) -> Loss:
    """Return the function that the `loss` section of the config describes.

    Args:
      loss: the settings; for `class_weights`, see `resolve_class_weights`.
      class_weights: float32 [classes], factors on the loss of an example by its class. With soft labels, an example has
        the mean factor of its classes. Unlike in PyTorch, the mean is not divided by the sum of the factors of the
        batch. So the loss does not depend on how examples are divided into batches. None: no factors.

    Returns:
      A function from (logits, labels) to the mean loss of the batch, a float32 scalar.

    Raises:
      UserError: if the name is unknown, if `target_threshold` lies outside [0, 1), or if it is set for a loss other
        than "binary_cross_entropy".
    """
    if loss.name not in LOSSES:
        raise unknown_name("loss", loss.name, LOSSES)
    options = {"label_smoothing": loss.label_smoothing, "focal_gamma": loss.focal_gamma}
    threshold = loss.target_threshold
    if threshold is not None:
        if loss.name != "binary_cross_entropy":
            raise UserError(
                f"loss.target_threshold requires binary_cross_entropy (loss.name is {loss.name}). Leave it unset."
            )
        if not 0 <= threshold < 1:
            raise UserError(f"loss.target_threshold must lie in [0, 1) ({threshold}). Correct it or leave it unset.")
        options["target_threshold"] = threshold

    def mean_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        losses = LOSSES[loss.name](logits, labels, **options)
        if class_weights is not None:
            weights = jnp.asarray(class_weights)
            losses *= weights[labels] if labels.ndim == 1 else labels @ weights
        return losses.mean()

    return mean_loss


def check_multi_label(config: ConfigDict) -> None:
    """Raise `UserError` if the settings do not work with any number of labels per image."""
    if config.loss.name != "binary_cross_entropy":
        raise UserError(
            f"images with any number of labels need loss.name=binary_cross_entropy ({config.loss.name} is set). Set it."
        )
    one_label_only = {
        "loss.class_weights": config.loss.class_weights,
        "loss.distill_from": config.loss.distill_from,
        "dataset.sampler": config.dataset.sampler if config.dataset.sampler != "uniform" else None,
    }
    for name, value in one_label_only.items():
        if value is not None:
            raise UserError(f"{name} ({value}) needs images with one label each. Leave it at its default.")


def check_class_weights(class_weights: str | None) -> None:
    """Raise `UserError` if `loss.class_weights` is neither "balanced" nor a list of numbers such as "1,1,4"."""
    if class_weights not in (None, "balanced"):
        _parse_class_weights(class_weights)


def _parse_class_weights(text: str) -> np.ndarray:
    try:
        weights = np.array([float(number) for number in text.split(",")], np.float32)
    except ValueError:
        weights = np.array([-1.0], np.float32)
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise UserError(
            f"loss.class_weights ({text}) must be 'balanced', or one number of at least 0 per class, such as 1,1,4."
        )
    return weights


def resolve_class_weights(class_weights: str | None, classes: int, labels: np.ndarray | None) -> np.ndarray | None:
    """Return the factors on the loss by class.

    "balanced" makes them inversely proportional to the number of training examples of each class, so that the mean
    factor of these examples is 1, as in scikit-learn.

    Args:
      class_weights: the value of `loss.class_weights`.
      classes: the number of classes.
      labels: int [n], the labels of the training examples, for "balanced". None if they are not known, because the step
        is only compiled.

    Returns:
      float32 [classes], or None if there are no factors.

    Raises:
      UserError: if there are more or fewer numbers than classes.

    Example:
      >>> resolve_class_weights("balanced", 3, np.array([0, 0, 0, 1])).round(3)
      array([0.667, 2.   , 0.   ], dtype=float32)
    """
    if class_weights is None:
        return None
    if class_weights == "balanced":
        if labels is None:
            return np.ones(classes, np.float32)
        labels = labels[labels != NO_LABEL]  # Without unreadable examples.
        counts = np.bincount(labels, minlength=classes)
        return np.where(counts > 0, len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0).astype(
            np.float32
        )
    weights = _parse_class_weights(class_weights)
    if len(weights) != classes:
        raise UserError(
            f"loss.class_weights has {len(weights)} numbers, but there are {classes} classes. Give one each."
        )
    return weights


def _soft_targets(labels: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
    """Return smoothed targets, float32 [batch, classes]."""
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, num_classes)
    return optax.smooth_labels(labels, label_smoothing)
