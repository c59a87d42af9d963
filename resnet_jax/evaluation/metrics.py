"""Scores of classification, from logits to figures."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.errors import UserError


class Outcomes(NamedTuple):
    """What came out for each example, all of shape [n] but for the last.

    position: int32, which example it is; label: int32; loss: float32, cross-entropy in nats; prediction: int32, the
    likeliest class; confidence: float32, the probability that is given to it; in_top5: bool, the label is among the
    five likeliest classes (among all, where there are fewer); log_probabilities: float32 [n, classes], or None where
    nobody asked for them.
    """

    position: jax.Array | np.ndarray
    label: jax.Array | np.ndarray
    loss: jax.Array | np.ndarray
    prediction: jax.Array | np.ndarray
    confidence: jax.Array | np.ndarray
    in_top5: jax.Array | np.ndarray
    log_probabilities: jax.Array | np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
    """Means over `examples` examples: cross-entropy (negative log-likelihood) in nats, and accuracies in [0, 1].

    unreadable: how many more there are that could not be scored.
    """

    loss: float
    top1: float
    top5: float
    examples: int
    unreadable: int = 0


def outcomes(logits: jax.Array, labels: jax.Array, positions: jax.Array, keep: bool = False) -> Outcomes:
    """Judges float32 logits [batch, classes] by int32 labels [batch]; equal logits rank by class number.

    With `keep`, the outcomes hold the probabilities of all classes.
    """
    _, likeliest = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    log_probabilities = jax.nn.log_softmax(logits)
    return Outcomes(
        position=positions,
        label=labels,
        loss=optax.softmax_cross_entropy_with_integer_labels(logits, labels),
        prediction=likeliest[:, 0].astype(jnp.int32),
        confidence=jnp.exp(jnp.max(log_probabilities, axis=-1)),
        in_top5=jnp.any(likeliest == labels[:, None], axis=-1),
        log_probabilities=log_probabilities if keep else None,
    )


def summarize(outcome: Outcomes, total: int) -> Scores:
    """Averages the outcomes of host arrays, in float64; no example of `total` ones may have two."""
    scored = len(outcome.position)
    if not scored:
        raise UserError(f"not one of {total:,} examples could be scored")
    if len(np.unique(outcome.position)) != scored or outcome.position.min() < 0 or outcome.position.max() >= total:
        raise ValueError(f"{scored} outcomes of {total} examples are not of different ones")
    return Scores(
        loss=float(np.mean(outcome.loss, dtype=np.float64)),
        top1=float(np.mean(outcome.prediction == outcome.label)),
        top5=float(np.mean(outcome.in_top5)),
        examples=scored,
        unreadable=total - scored,
    )
