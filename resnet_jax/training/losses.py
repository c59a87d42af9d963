"""Loss functions, by name.

Every loss accepts two kinds of labels: class indices, int32 [batch], and soft targets that sum to one, float32
[batch, classes], such as those of mixup (Zhang et al. 2017). "softmax_cross_entropy_one_hot" is therefore only another
name for "softmax_cross_entropy".
"""

from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

from resnet_jax.errors import UserError, unknown_name

Loss = Callable[[jax.Array, jax.Array], jax.Array]  # maps logits and labels to the mean loss of the batch


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Return the cross-entropy between the labels and the softmax over the classes.

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch] or float32 [batch, classes].
      label_smoothing: fraction of the target that is spread evenly over all classes (Szegedy et al. 2015, section 7).

    Returns:
      float32 [batch], in nats.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = softmax_cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))
      >>> print(f"{loss[0]:.4f}")  # log(4)
      1.3863
    """
    return optax.softmax_cross_entropy(logits, _soft_targets(labels, logits.shape[-1], label_smoothing))


def binary_cross_entropy(
    logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0, target_threshold: float | None = None
) -> jax.Array:
    """Return the cross-entropy of an independent sigmoid per class.

    See Beyer et al. 2020, "Are we done with ImageNet?", and Wightman et al. 2021, "ResNet strikes back", section 3.
    Wightman et al. use a threshold of 0.2: both classes of a mixed image then have a target of 1, unless the share of
    one of them is at most 0.2.

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch] or float32 [batch, classes].
      label_smoothing: see `softmax_cross_entropy`.
      target_threshold: if set, smoothed targets strictly above this value become 1 and all others 0.

    Returns:
      float32 [batch], in nats: the mean over the classes, as in PyTorch and timm. big_vision uses the sum.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = binary_cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))
      >>> print(f"{loss[0]:.4f}")  # log(2)
      0.6931
    """
    targets = _soft_targets(labels, logits.shape[-1], label_smoothing)
    if target_threshold is not None:
        targets = (targets > target_threshold).astype(logits.dtype)
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1)


LOSSES = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "softmax_cross_entropy_one_hot": softmax_cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}


def from_config(loss: ConfigDict) -> Loss:
    """Return the function that the `loss` section of the config describes.

    Returns:
      A function from (logits, labels) to the mean loss of the batch, a float32 scalar.

    Raises:
      UserError: if the name is unknown, if `target_threshold` lies outside [0, 1), or if it is set for a loss other
        than "binary_cross_entropy".
    """
    if loss.name not in LOSSES:
        raise unknown_name("loss", loss.name, LOSSES)
    options = {"label_smoothing": loss.label_smoothing}
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
        return LOSSES[loss.name](logits, labels, **options).mean()

    return mean_loss


def _soft_targets(labels: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
    """Return smoothed targets, float32 [batch, classes]."""
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, num_classes)
    return optax.smooth_labels(labels, label_smoothing)
