import itertools

import jax
import numpy as np
import pytest

from resnet_jax import randomness
from resnet_jax.randomness import Use


def test_keys_differ_by_seed_use_and_counter():
    keys = [
        tuple(jax.random.key_data(randomness.key(seed, use, counter)).tolist())
        for seed, use, counter in itertools.product((0, 1), Use, (0, 1))
    ]
    assert len(set(keys)) == len(keys)


def test_traced_counter_gives_the_same_key():
    traced = jax.jit(lambda step: jax.random.key_data(randomness.key(3, Use.AUGMENTATION, step)))(7)
    assert (traced == jax.random.key_data(randomness.key(3, Use.AUGMENTATION, 7))).all()


def test_host_draws_equal_the_recorded_ones():
    """These values must never change, because a resumed run would then differ from an uninterrupted one."""
    assert randomness.permutation(0, Use.SHUFFLING, (0,), 10).tolist() == [3, 7, 4, 2, 9, 8, 1, 6, 5, 0]
    assert randomness.permutation(2**40, Use.SHUFFLING, (90,), 5).tolist() == [1, 4, 2, 0, 3]
    assert randomness.uniform(1, Use.CROPPING, (2, 3), 3).tolist() == [
        0.574173044667571,
        0.7156192211732418,
        0.5182444325701987,
    ]


def test_host_draws_differ_by_seed_use_and_counters():
    drawn = [
        tuple(randomness.uniform(seed, use, counters, 2))
        for seed, use, counters in itertools.product((0, 1), Use, [(0, 1), (1, 0), (1, 1), (0,), (0, 0, 1)])
    ]
    assert len(set(itertools.chain(*drawn))) == 2 * len(drawn)


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_permutation_contains_each_number_once(size):
    order = randomness.permutation(0, Use.SHUFFLING, (0,), size)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(size))


def test_permutations_are_equally_likely():
    counted = np.zeros((3, 3, 3), int)
    for counter in range(1200):
        counted[tuple(randomness.permutation(5, Use.SHUFFLING, (counter,), 3))] += 1
    drawn = counted[counted > 0]
    assert len(drawn) == 6
    assert abs(drawn - 200).max() < 60


def test_uniform_numbers_are_distributed_evenly():
    numbers = randomness.uniform(0, Use.CROPPING, (0, 0), 20_000)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counted, _ = np.histogram(numbers, 20, (0, 1))
    assert abs(counted - 1000).max() < 130


def test_uniform_numbers_of_adjacent_counters_are_uncorrelated():
    first = np.array(
        [randomness.uniform(0, Use.CROPPING, (epoch, position), 1)[0] for epoch in range(30) for position in range(50)]
    )
    assert abs(first.mean() - 0.5) < 0.03
    table = first.reshape(30, 50)
    for next_values, values in [(table[1:], table[:-1]), (table[:, 1:], table[:, :-1])]:
        assert abs(np.corrcoef(next_values.ravel(), values.ravel())[0, 1]) < 0.1
