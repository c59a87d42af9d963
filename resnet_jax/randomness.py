"""All randomness of a run: keys that are functions of (seed, what for, when), never carried from step to step.

That is why a resumed run draws what an uninterrupted one would have drawn.
"""

import enum
import functools

import jax


class Use(enum.IntEnum):
    """What a key is for; keys of different uses are independent."""

    INITIAL_WEIGHTS = 0
    SHUFFLING = 1  # counter: the epoch
    AUGMENTATION = 2  # counter: the step


def key(seed: int, use: Use, counter: jax.Array | int = 0) -> jax.Array:
    """The PRNG key for `use` at `counter`."""
    return functools.reduce(jax.random.fold_in, (int(use), counter), jax.random.key(seed))
