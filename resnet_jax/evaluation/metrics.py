"""Scores of classification, from logits to figures."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Outcomes(NamedTuple):
    """What came out for each example, all of shape [n].

    loss: float32, cross-entropy in nats; prediction: int32, the likeliest class; in_top5: bool, the label is among the
    five likeliest classes (among all, where there are fewer).
    """

    loss: jax.Array | np.ndarray
    prediction: jax.Array | np.ndarray
    in_top5: jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Scores:
    """Means over `examples` examples: cross-entropy in nats, and accuracies in [0, 1]."""

    loss: float
    top1: float
    top5: float
    examples: int


def outcomes(logits: jax.Array, labels: jax.Array) -> Outcomes:
    """Judges float32 logits [batch, classes] by int32 labels [batch]; equal logits rank by class number."""
    _, likeliest = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    return Outcomes(
        loss=optax.softmax_cross_entropy_with_integer_labels(logits, labels),
        prediction=likeliest[:, 0].astype(jnp.int32),
        in_top5=jnp.any(likeliest == labels[:, None], axis=-1),
    )


def summarize(outcome: Outcomes, labels: np.ndarray) -> Scores:
    """Averages the outcomes of host arrays, in float64; each example must have exactly one."""
    if {len(values) for values in outcome} != {len(labels)}:
        raise ValueError(f"{[len(values) for values in outcome]} outcomes of {len(labels)} examples")
    return Scores(
        loss=float(np.mean(outcome.loss, dtype=np.float64)),
        top1=float(np.mean(outcome.prediction == labels)),
        top5=float(np.mean(outcome.in_top5)),
        examples=len(outcome.loss),
    )
