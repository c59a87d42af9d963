"""Networks beside one another: whether they differ by more than chance, and what they say together."""

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from scipy import stats

from resnet_jax import parallel
from resnet_jax.evaluation import metrics
from resnet_jax.evaluation.metrics import Outcomes


@dataclasses.dataclass(frozen=True)
class McNemar:
    """Of two networks on the same examples: how many only the first had right, and how many only the second.

    p_value: how likely a split at least as uneven is, were both equally good (McNemar 1947, by the exact binomial
    distribution).
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Outcomes, second: Outcomes) -> McNemar:
    """Compares two networks by the examples that one had right and the other wrong."""
    if not np.array_equal(first.label, second.label):
        raise ValueError("these are outcomes of different examples")
    first_right, second_right = first.prediction == first.label, second.prediction == second.label
    only_first, only_second = int(np.sum(first_right & ~second_right)), int(np.sum(second_right & ~first_right))
    differing = only_first + only_second
    p_value = float(stats.binomtest(only_first, differing).pvalue) if differing else 1.0
    return McNemar(only_first, only_second, p_value)


def ensemble(members: Sequence[Outcomes]) -> Outcomes:
    """The outcomes of networks that answer together, by the mean of their probabilities, which they must hold.

    (Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", 2.4.)
    """
    first = members[0]
    if not all(np.array_equal(member.label, first.label) for member in members):
        raise ValueError("these are outcomes of different examples")
    # Of their sum, which as logits is the same as their mean.
    logits = functools.reduce(np.logaddexp, (member.log_probabilities for member in members))
    return parallel.fetch(metrics.outcomes(*map(jnp.asarray, (logits, first.label, first.position))))
