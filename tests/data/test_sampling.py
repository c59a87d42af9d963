import pickle

import numpy as np
import pytest

from resnet_jax.data.sampling import BalancedSampler, UniformSampler

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [80, 15, 5]))


def test_uniform_sampler_draws_a_new_permutation_per_epoch_and_seed():
    orders = [UniformSampler(seed, 50)(epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


class TestBalancedSampler:
    def test_classes_are_visited_equally_often(self):
        """100 examples are not divisible by three classes: one of them is visited once more, each in turn."""
        sampler = BalancedSampler(0, LABELS)
        counts = np.array([np.bincount(LABELS[sampler(epoch)], minlength=4) for epoch in range(3)])
        assert counts[:, [0, 1, 3]].tolist() == [[34, 33, 33], [33, 34, 33], [33, 33, 34]]

    def test_examples_of_a_class_are_visited_equally_often(self):
        visits = np.bincount(BalancedSampler(0, LABELS)(0), minlength=100)
        for label in (0, 1, 3):
            assert np.ptp(visits[label == LABELS]) <= 1

    def test_frequent_class_is_visited_completely_over_several_epochs(self):
        sampler = BalancedSampler(0, LABELS)
        visited = np.concatenate([sampler(epoch) for epoch in range(40)])
        assert set(visited) == set(range(100))

    def test_order_is_a_function_of_seed_and_epoch(self):
        first, second = BalancedSampler(3, LABELS), BalancedSampler(3, LABELS)
        expected = {epoch: first(epoch).copy() for epoch in range(4)}
        for epoch in (2, 0, 3, 1, 2):
            np.testing.assert_array_equal(second(epoch), expected[epoch])
        assert len({tuple(order) for order in expected.values()}) == 4
        assert not np.array_equal(BalancedSampler(4, LABELS)(0), expected[0])

    def test_classes_are_mixed_within_an_epoch(self):
        order = LABELS[BalancedSampler(0, LABELS)(0)]
        assert len(set(order[:10])) == 3

    def test_unreadable_examples_are_not_a_class(self):
        labels = np.where(np.arange(100) < 7, -1, LABELS)
        visited = BalancedSampler(0, labels)(0)
        assert len(visited) == 100 and not np.isin(np.arange(7), visited).any()

    def test_copy_in_a_worker_draws_the_same_order(self):
        sampler = BalancedSampler(0, LABELS)
        copy = pickle.loads(pickle.dumps(sampler))
        np.testing.assert_array_equal(copy(5), sampler(5))

    @pytest.mark.parametrize("labels", [np.zeros(7, int), np.arange(7)])
    def test_balanced_labels_are_visited_once_each(self, labels):
        assert sorted(BalancedSampler(0, labels)(1)) == list(range(7))
