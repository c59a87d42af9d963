"""Loss functions, by name."""

from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

from resnet_jax.errors import unknown_name

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of integer labels.

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch].
      label_smoothing: the share of the target that is spread evenly over all classes (Szegedy et al. 2015, section 7).

    Returns:
      float32 [batch], in nats.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not label_smoothing:
        return loss
    even = -jax.nn.log_softmax(logits).mean(axis=-1)
    return (1 - label_smoothing) * loss + label_smoothing * even


def softmax_cross_entropy_one_hot(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """As `softmax_cross_entropy`, for targets [batch, classes] that sum to one, or integer labels to make them of."""
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(labels, label_smoothing))


LOSSES = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "softmax_cross_entropy_one_hot": softmax_cross_entropy_one_hot,
}


def from_config(loss: ConfigDict) -> Loss:
    """The function that `config.loss` names: logits and labels to the mean loss of the batch."""
    if loss.name not in LOSSES:
        raise unknown_name("loss", loss.name, LOSSES)
    return lambda logits, labels: LOSSES[loss.name](logits, labels, loss.label_smoothing).mean()
