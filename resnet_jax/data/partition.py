"""Partitions of the training examples among the clients of a federated run, as functions of the seed and the labels."""

import numpy as np
from ml_collections import ConfigDict
from scipy.special import gammaincinv

from resnet_jax import randomness
from resnet_jax.errors import UserError, unknown_name
from resnet_jax.randomness import Use

PARTITIONS = ("iid", "dirichlet", "shards", "directories")  # values of `federated.partition`


def check(federated: ConfigDict) -> None:
    """Raise `UserError` if `federated.partition` is unknown, or needs a number of clients that is not set."""
    if federated.partition is None:
        return
    if federated.partition not in PARTITIONS:
        raise unknown_name("federated.partition", federated.partition, PARTITIONS)
    if federated.clients is None and federated.partition != "directories":
        raise UserError(f"federated.partition={federated.partition} needs federated.clients. Set it, such as to 10.")


def divide(federated: ConfigDict, seed: int, labels: np.ndarray, directories: np.ndarray | None) -> list[np.ndarray]:
    """Divide the training examples among the clients as `federated.partition` says.

    Args:
      federated: the `federated` settings, for which `check` passes.
      seed: the seed of the run.
      labels: int [n], the labels of the examples. Unreadable examples, whose labels are negative, belong to nobody.
      directories: int [n], the number of each example's directory, if the dataset has one directory per client.

    Returns:
      The positions of each client's examples, int64, sorted.

    Raises:
      UserError: if there are fewer readable examples than clients, unless the partition is "directories".
    """
    if federated.partition == "directories":
        assert directories is not None  # `dataset.open_dataset` checks it.
        return [np.flatnonzero((directories == number) & (labels >= 0)) for number in range(federated.clients)]
    readable = np.flatnonzero(labels >= 0)
    if len(readable) < federated.clients:
        raise UserError(
            f"there are {len(readable):,} training examples for {federated.clients:,} clients. Set fewer clients."
        )
    if federated.partition == "iid":
        subsets = iid(seed, len(readable), federated.clients)
    elif federated.partition == "shards":
        subsets = shards(seed, labels[readable], federated.clients, federated.shards)
    else:
        subsets = dirichlet(seed, labels[readable], federated.clients, federated.alpha)
    return [readable[positions] for positions in subsets]


def iid(seed: int, size: int, clients: int) -> list[np.ndarray]:
    """Deal the examples to the clients at random.

    Args:
      seed: the seed of the run.
      size: the number of examples.
      clients: the number of clients.

    Returns:
      The positions of each client's examples, sorted: disjoint, together all of them, and in sizes that differ by at
      most one.

    Example:
      >>> [len(positions) for positions in iid(0, 10, clients=3)]
      [4, 3, 3]
    """
    return [np.sort(part) for part in np.array_split(_shuffled(seed, size), clients)]


def shards(seed: int, labels: np.ndarray, clients: int, per_client: int) -> list[np.ndarray]:
    """Sort the examples by label, cut them into shards, and deal the same number of shards to each client at random.

    McMahan et al. 2017, section 3 ("Communication-Efficient Learning of Deep Networks from Decentralized Data"), with
    two shards per client.

    Args:
      seed, clients: as in `iid`.
      labels: int [n].
      per_client: the number of shards of a client.

    Returns:
      As `iid`, but the sizes differ by at most `per_client`.
    """
    shuffled = _shuffled(seed, len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    pieces = np.array_split(by_label, clients * per_client)
    dealt = randomness.permutation(seed, Use.PARTITION, (1,), len(pieces)).reshape(clients, per_client)
    return [np.sort(np.concatenate([pieces[number] for number in row])) for row in dealt]


def dirichlet(seed: int, labels: np.ndarray, clients: int, alpha: float) -> list[np.ndarray]:
    """Draw for each client the shares of the classes from a Dirichlet distribution, and then examples of these classes.

    Hsu et al. 2019, section 3.1 ("Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification"). The parameters of the distribution are `alpha` times the shares of the classes in the whole
    dataset. So over the clients, the share of a class has the mean p, its share in the whole dataset, and the variance
    p (1 - p) / (alpha + 1), until the class is used up. Then its share goes to the other classes in proportion.

    Args:
      seed, clients: as in `iid`.
      labels: int [n], not negative.
      alpha: above 0. With a large one, all clients have similar shares; with a small one, each has hardly more than one
        class.

    Returns:
      As `iid`.
    """
    shuffled = _shuffled(seed, len(labels))
    by_class = [shuffled[labels[shuffled] == label] for label in range(int(labels.max()) + 1)]
    available = np.array([len(members) for members in by_class])
    used = np.zeros_like(available)
    parts = []
    for client, size in enumerate(len(part) for part in np.array_split(shuffled, clients)):
        shares = _draw_shares(seed, client, alpha * available / available.sum())
        counts = _draw_counts(seed, client, size, shares, available - used)
        taken = zip(by_class, used, used + counts, strict=True)
        parts.append(np.sort(np.concatenate([members[start:stop] for members, start, stop in taken])))
        used += counts
    return parts


def _shuffled(seed: int, size: int) -> np.ndarray:
    return randomness.permutation(seed, Use.PARTITION, (0,), size)


def _draw_shares(seed: int, client: int, parameters: np.ndarray) -> np.ndarray:
    """Draw from a Dirichlet distribution: float [classes], with the sum 1.

    Shares are gamma variables divided by their sum. Their logarithms are drawn, because for small parameters the
    variables themselves would underflow: a variable with the parameter a is one with the parameter a + 1 times
    U ** (1 / a), where U is uniform in [0, 1] (Marsaglia & Tsang 2000, section 6). NumPy's own gamma variables are not
    used, because they may change from version to version.
    """
    first, second = randomness.uniform(seed, Use.PARTITION, (2, client), 2 * len(parameters)).reshape(2, -1)
    with np.errstate(divide="ignore"):  # A class without examples has the parameter 0 and the share 0.
        logarithms = np.log(gammaincinv(parameters + 1, first)) + np.log(second) / parameters
    weights = np.exp(logarithms - logarithms.max())
    return weights / weights.sum()


def _draw_counts(seed: int, client: int, size: int, shares: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Draw how many examples of each class a client gets: int [classes], together `size`, and at most `left` of each.

    Examples of a class that is used up are drawn again from the other classes.
    """
    counts = np.zeros_like(left)
    attempt = 0
    while counts.sum() < size:
        weights = np.where(counts < left, shares, 0.0)
        if not weights.any():  # All classes of this client are used up.
            weights = (left - counts).astype(float)
        draws = randomness.uniform(seed, Use.PARTITION, (3, client, attempt), size - counts.sum())
        classes = np.searchsorted(np.cumsum(weights) / weights.sum(), draws, side="right")
        counts = np.minimum(counts + np.bincount(classes, minlength=len(left)), left)
        attempt += 1
    return counts
