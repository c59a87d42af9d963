import pickle

import numpy as np
import pytest

from resnet_jax.data.sampling import BalancedSampler, ClientSampler, RepeatingSampler, UniformSampler

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [80, 15, 5]))


def test_uniform_sampler_draws_a_new_permutation_per_epoch_and_seed():
    orders = [UniformSampler(seed, 50)(epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize(("size", "repeats"), [(192, 4), (200, 3), (10, 3)])
def test_repeating_sampler_shows_copies_of_the_first_images_of_the_epoch(size, repeats):
    single = UniformSampler(0, size)
    repeated = RepeatingSampler(single, repeats)
    assert repeated.size == size
    for epoch in range(3):
        order = repeated(epoch)
        assert len(order) == size
        assert set(order) <= set(single(epoch)[: -(-size // repeats)])
        assert np.bincount(order).max() == repeats
    assert list(repeated.candidates(0, 8)) == list(single.candidates(0, 8))


def test_no_image_is_mixed_with_its_copy():
    """Mixup and cutmix pair the rows 0 and 1, 2 and 3, and so on."""
    order = RepeatingSampler(UniformSampler(0, 192), 4)(0)
    pairs = order.reshape(-1, 2)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    partners = {int(image): {int(sum(pair)) - int(image) for pair in pairs if image in pair} for image in order}
    assert all(len(others) >= 2 for others in partners.values())


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

    def test_unreadable_example_is_replaced_by_another_of_its_class(self):
        members = np.flatnonzero(LABELS == 1).tolist()
        candidates = list(BalancedSampler(0, LABELS).candidates(0, members[2]))
        assert candidates[: len(members)] == members[2:] + members[:2]
        assert set(candidates) == set(range(100))

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


class TestClientSampler:
    """Three clients: ten examples, three examples and none."""

    PARTS = (np.arange(0, 20, 2), np.array([1, 3, 5]), np.array([], np.int64))

    def sampler(self, **settings):
        return ClientSampler(0, self.PARTS, np.zeros(20, int), batch_size=4, **settings)

    @pytest.mark.parametrize(
        ("settings", "num_steps"),
        [({}, [2, 1, 0]), ({"local_epochs": 3}, [6, 3, 0]), ({"local_steps": 5}, [5, 5, 0])],
    )
    def test_clients_have_their_steps_and_see_only_their_examples(self, settings, num_steps):
        sampler = self.sampler(**settings)
        assert [sampler.num_steps(client) for client in range(3)] == num_steps
        assert sampler.size == 4 * sampler.steps_per_visit == 4 * max(num_steps)
        for visit in range(9):
            positions = sampler(visit)
            assert positions.shape == (sampler.size,)
            assert {*positions.tolist()} <= {*self.PARTS[visit % 3].tolist(), *([0] if visit % 3 == 2 else [])}

    def test_epoch_visits_examples_once_and_differs_from_round_to_round(self):
        sampler = self.sampler(local_epochs=2)
        visits = [sampler(visit) for visit in (0, 3)]
        for positions in visits:
            for epoch in (positions[:8], positions[8:16]):
                assert len(np.unique(epoch)) == 8
        assert not np.array_equal(*visits)
        np.testing.assert_array_equal(sampler(0), self.sampler(local_epochs=2)(0))

    def test_only_client_has_the_order_of_an_ordinary_run(self):
        alone = ClientSampler(7, [np.arange(11)], np.zeros(11, int), batch_size=4)
        for epoch in range(3):
            np.testing.assert_array_equal(alone(epoch), UniformSampler(7, 11)(epoch)[:8])

    def test_substitutes_of_an_unreadable_example_are_of_the_same_client(self):
        assert list(self.sampler().candidates(3, 16)) == [16, 18, 0, 2, 4, 6, 8, 10, 12, 14]
        assert list(UniformSampler(0, 4).candidates(0, 2)) == [2, 3, 0, 1]
