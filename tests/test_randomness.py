import itertools

import jax

from resnet_jax import randomness
from resnet_jax.randomness import Use


def test_keys_differ_by_seed_use_and_counter():
    keys = [
        tuple(jax.random.key_data(randomness.key(seed, use, counter)).tolist())
        for seed, use, counter in itertools.product((0, 1), Use, (0, 1))
    ]
    assert len(set(keys)) == len(keys)


def test_a_traced_counter_gives_the_same_key():
    traced = jax.jit(lambda step: jax.random.key_data(randomness.key(3, Use.AUGMENTATION, step)))(7)
    assert (traced == jax.random.key_data(randomness.key(3, Use.AUGMENTATION, 7))).all()
