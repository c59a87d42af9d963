import numpy as np
import pytest

from resnet_jax.config import default
from resnet_jax.data import partition
from resnet_jax.errors import UserError

LABELS = np.repeat(np.arange(10), 500)


def divide(labels=LABELS, clients=20, seed=0, **settings):
    federated = default().federated
    federated.clients = clients
    federated.update(settings)
    partition.check(federated)
    return partition.divide(federated, seed, labels, None)


def shares(parts, labels=LABELS):
    return np.array([np.bincount(labels[part], minlength=10) / len(part) for part in parts])


@pytest.mark.parametrize(
    "settings",
    [
        {"partition": "iid"},
        {"partition": "shards"},
        {"partition": "shards", "shards": 3},
        *({"partition": "dirichlet", "alpha": alpha} for alpha in (1e-3, 0.1, 1.0, 100.0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("clients", [1, 7, 20])
def test_parts_are_disjoint_and_complete(settings, clients):
    labels = np.random.default_rng(0).permutation(LABELS)[:4321]
    parts = divide(labels, clients, **settings)
    assert len(parts) == clients
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all((np.diff(part) > 0).all() for part in parts)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= settings.get("shards", 2 if settings["partition"] == "shards" else 1)


@pytest.mark.parametrize("name", ["iid", "shards", "dirichlet"])
def test_partition_is_a_function_of_the_seed(name):
    first, again, other = (divide(partition=name, seed=seed) for seed in (0, 0, 1))
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_shares_of_classes_have_the_spread_of_a_dirichlet_distribution(alpha):
    """The variance of the shares is p (1 - p) / (alpha + 1), as long as no class is used up.

    So only the first clients of many are compared; their number makes the variance of 10 shares each exact to a few
    percent. Drawing 1,000 examples from the shares adds p (1 - p) / 1000, and a little less for the skewed ones.
    """
    labels = np.repeat(np.arange(10), 100_000)
    drawn = shares(divide(labels, 1000, partition="dirichlet", alpha=alpha)[:250], labels)
    assert drawn.mean() == pytest.approx(0.1)
    assert np.abs(drawn.mean(axis=0) - 0.1).max() < 0.06
    assert np.mean((drawn - 0.1) ** 2) == pytest.approx(0.1 * 0.9 / (alpha + 1) + 0.09e-3, rel=0.15)


def test_shards_give_each_client_about_two_classes():
    assert ((shares(divide(partition="shards")) > 0).sum(axis=1) <= 3).all()


def test_unequal_classes_keep_their_shares_on_average():
    labels = np.repeat([0, 1], [9000, 1000])
    parts = divide(labels, 10, partition="dirichlet", alpha=1000.0)
    assert [np.mean(labels[part]) for part in parts] == pytest.approx([0.1] * 10, abs=0.06)


@pytest.mark.parametrize("name", ["iid", "shards", "dirichlet"])
def test_unreadable_examples_are_left_out(name):
    labels = np.array([0, 1, -1, 0, 1, 0])
    parts = divide(labels, 2, partition=name)
    assert np.sort(np.concatenate(parts)).tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition": "halves"}, "unknown federated.partition 'halves'"),
        ({"partition": "iid", "clients": None}, "federated.partition=iid needs federated.clients"),
        ({"partition": "iid", "clients": 6000}, "5,000 training examples for 6,000 clients"),
    ],
)
def test_impossible_partition_is_reported(settings, message):
    with pytest.raises(UserError, match=message):
        divide(**settings)
