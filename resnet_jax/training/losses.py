"""Loss functions, by name.

All take labels of either kind: int32 [batch], the number of the class, or float32 [batch, classes], soft targets that
sum to one, such as mixup makes (Zhang et al. 2017). So "softmax_cross_entropy_one_hot" is only another name.
"""

from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

from resnet_jax.errors import UserError, unknown_name

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of the softmax over the classes.

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch] or float32 [batch, classes].
      label_smoothing: the share of the target that is spread evenly over all classes (Szegedy et al. 2015, section 7).

    Returns:
      float32 [batch], in nats.
    """
    return optax.softmax_cross_entropy(logits, _targets(labels, logits.shape[-1], label_smoothing))


def binary_cross_entropy(
    logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0, target_threshold: float | None = None
) -> jax.Array:
    """Cross-entropy of a sigmoid for each class on its own: is it in the picture or not?

    Beyer et al. 2020, "Are we done with ImageNet?"; Wightman et al. 2021, "ResNet strikes back", section 3. The latter
    threshold at 0.2: both pictures of a mix count in full, unless one of them is hardly there.

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch] or float32 [batch, classes].
      label_smoothing: as in `softmax_cross_entropy`.
      target_threshold: targets that are strictly greater, once smoothed, become 1 and all others 0; None: they stay.

    Returns:
      float32 [batch], in nats: the mean over the classes, as PyTorch and timm take it; big_vision takes the sum.
    """
    targets = _targets(labels, logits.shape[-1], label_smoothing)
    if target_threshold is not None:
        targets = (targets > target_threshold).astype(logits.dtype)
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1)


LOSSES = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "softmax_cross_entropy_one_hot": softmax_cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}


def from_config(loss: ConfigDict) -> Loss:
    """The function that `config.loss` names: logits and labels to the mean loss of the batch.

    Raises:
      UserError: for an unknown name, or a `target_threshold` outside [0, 1) or of another loss than
        "binary_cross_entropy".
    """
    if loss.name not in LOSSES:
        raise unknown_name("loss", loss.name, LOSSES)
    options = {"label_smoothing": loss.label_smoothing}
    threshold = loss.target_threshold
    if threshold is not None:
        if loss.name != "binary_cross_entropy":
            raise UserError(f"loss.target_threshold is for binary_cross_entropy: leave it unset with {loss.name}")
        if not 0 <= threshold < 1:
            raise UserError(f"loss.target_threshold must lie in [0, 1) or be unset, but it is {threshold}")
        options["target_threshold"] = threshold
    return lambda logits, labels: LOSSES[loss.name](logits, labels, **options).mean()


def _targets(labels: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
    """Soft targets float32 [batch, classes], smoothed."""
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, num_classes)
    return optax.smooth_labels(labels, label_smoothing)
