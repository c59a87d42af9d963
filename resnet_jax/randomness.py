"""All randomness of a run: functions of (seed, what for, when), never carried from step to step.

That is why a resumed run draws what an uninterrupted one would have drawn. On the device draws come from JAX's keys, on
the host from raw bits of Philox, which NumPy promises never to change.
"""

import enum
import functools

import jax
import numpy as np


class Use(enum.IntEnum):
    """What a key is for; keys of different uses are independent."""

    INITIAL_WEIGHTS = 0
    SHUFFLING = 1  # counter: the epoch
    AUGMENTATION = 2  # counter: the step
    CROPPING = 3  # counters: the epoch, and the place of an example in it
    DROPOUT = 4  # counter: the step


def key(seed: int, use: Use, counter: jax.Array | int = 0) -> jax.Array:
    """The PRNG key for `use` at `counter`."""
    return functools.reduce(jax.random.fold_in, (int(use), counter), jax.random.key(seed))


def permutation(seed: int, use: Use, counter: int, size: int) -> np.ndarray:
    """The numbers below `size`, each once, in any order with equal probability: int64 [size]."""
    return np.argsort(_philox(seed, use, counter).random_raw(size), kind="stable")


def uniform(seed: int, use: Use, counters: tuple[int, ...], count: int) -> np.ndarray:
    """Numbers in [0, 1): float64 [count]."""
    return (_philox(seed, use, *counters).random_raw(count) >> np.uint64(11)) * 2.0**-53


def _philox(seed: int, use: Use, *counters: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence((seed, int(use), *counters)))
