"""Differential privacy of clients: bounded updates, noise on their sum, and what that guarantees.

McMahan et al. 2018 ("Learning Differentially Private Recurrent Language Models"), algorithm 1, with flat clipping and
the estimator with a fixed denominator.
"""

import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import needs_extra


def clip(update, norm: float):
    """Scale the update down to a global L2 norm of at most `norm`.

    Example:
      >>> clip({"bias": jnp.array([3.0, 4.0])}, norm=2.5)["bias"].tolist()
      [1.5, 2.0]
    """
    factor = jnp.minimum(1.0, norm / jnp.maximum(optax.tree.norm(update), 1e-12))
    return jax.tree.map(lambda leaf: leaf * factor, update)


def add_noise(update, std: float, key: jax.Array):
    """Add independent Gaussian noise with this std to every entry of an update."""
    leaves, treedef = jax.tree.flatten(update)
    keys = jax.random.split(key, len(leaves))
    noisy = [leaf + std * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, noisy)


def epsilon(noise_multiplier: float, share: float, rounds: int, delta: float) -> float:
    """Return epsilon of the (epsilon, delta)-differential privacy of a client's whole data after some rounds.

    Two neighboring datasets differ in all the data of one client. The package `dp-accounting` composes the rounds, by
    Renyi differential privacy (Mironov 2017).

    Args:
          noise_multiplier: std of the noise on the sum of the updates, in units of their largest norm.
          share: the probability with which each client takes part in a round, independently.
          rounds: how many rounds there were.
          delta: the probability with which the guarantee may not hold.

    Raises:
          UserError: if the package is not installed.
    """
    with needs_extra("federated.noise_multiplier", "dp-accounting", "privacy"):
        import dp_accounting
    event = dp_accounting.PoissonSampledDpEvent(share, dp_accounting.GaussianDpEvent(noise_multiplier))
    accountant = dp_accounting.rdp.RdpAccountant()
    accountant.compose(event, rounds)
    return float(accountant.get_epsilon(delta))
