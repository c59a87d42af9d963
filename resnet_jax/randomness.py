"""All randomness of a run, as functions of (seed, use, counter). The counter is, for example, the step.

No random state is carried from step to step, so a resumed run draws the same numbers as an uninterrupted one. Devices
draw from JAX keys. The host draws from the raw bits of Philox, which NumPy promises never to change.
"""

import enum
import functools

import jax
import numpy as np


class Use(enum.IntEnum):
    """The purpose of random numbers. Numbers for different uses are independent."""

    INITIAL_WEIGHTS = 0
    SHUFFLING = 1  # counter: the epoch
    AUGMENTATION = 2  # counter: the step
    CROPPING = 3  # counters: the epoch, and the place of the example in the order of the epoch
    DROPOUT = 4  # counter: the step
    FLIPPING = 5  # no counter: one draw per example decides its flips in all epochs
    SAMPLING = 6  # counters: the epoch, and the number of the class
    PARTITION = 7  # counters: see `data.partition`
    PARTICIPATION = 8  # counters: the round, and which of the draws in it
    COMPRESSION = 9  # counter: the visit; see `data.sampling.ClientSampler`
    PRIVACY = 10  # counter: the round


def key(seed: int, use: Use, counter: jax.Array | int = 0) -> jax.Array:
    """Return the JAX key for a use at a counter.

    Args:
      seed: the seed of the run.
      use: the purpose of the key.
      counter: the epoch or step; may be traced.

    Example:
      >>> bool(key(0, Use.DROPOUT, 7) == key(0, Use.DROPOUT, 7))
      True
      >>> bool(key(0, Use.DROPOUT, 7) == key(0, Use.DROPOUT, 8))
      False
    """
    return functools.reduce(jax.random.fold_in, (int(use), counter), jax.random.key(seed))


def permutation(seed: int, use: Use, counters: tuple[int, ...], size: int) -> np.ndarray:
    """Return a uniformly random permutation of the numbers below `size`, int64 [size].

    Example:
      >>> permutation(0, Use.SHUFFLING, counters=(0,), size=10).tolist()
      [3, 7, 4, 2, 9, 8, 1, 6, 5, 0]
    """
    return np.argsort(_philox(seed, use, *counters).random_raw(size), kind="stable")


def uniform(seed: int, use: Use, counters: tuple[int, ...], count: int) -> np.ndarray:
    """Return independent uniform numbers in [0, 1), float64 [count].

    Example:
      >>> uniform(1, Use.CROPPING, counters=(2, 3), count=2).round(3).tolist()
      [0.574, 0.716]
    """
    return (_philox(seed, use, *counters).random_raw(count) >> np.uint64(11)) * 2.0**-53


def _philox(seed: int, use: Use, *counters: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence((seed, int(use), *counters)))
