"""Exponential moving averages of a network's variables."""

import jax
import jax.numpy as jnp


def update(averages: dict, variables: dict, decay: float, step: jax.Array) -> dict:
    """The averages after one more step: decay * averages + (1 - decay) * variables.

    Polyak & Juditsky 1992, with the exponential weights of Szegedy et al. 2015 (section 8). So that the initial weights
    do not linger, the decay is at most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage.

    Args:
      averages: float32 arrays.
      variables: the same tree, after the step.
      decay: in [0, 1).
      step: int32, steps taken before this one.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda average, value: average + (1 - decay) * (value - average), averages, variables)
