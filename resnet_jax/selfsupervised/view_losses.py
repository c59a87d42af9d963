"""Losses of self-supervised methods, which compare embeddings of two views of the same images.

The embeddings are float32 [batch, width]; row i belongs to image i. Under `jax.jit` over a mesh, the batch is the
global batch: the matrix products below gather the embeddings of all devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from resnet_jax.selfsupervised.embeddings import directions


class Views(NamedTuple):
    """Embeddings of two views of the same images, each float32 [batch, width]."""

    first: jax.Array
    second: jax.Array


def barlow_twins(views: Views, off_diagonal_weight: float = 0.0051) -> jax.Array:
    """Return the Barlow Twins loss (Zbontar et al. 2021, equations 1 and 2).

    It is 0 if the cross-correlation of the views is the identity.

    Args:
      views: the projections.
      off_diagonal_weight: lambda of the paper, with the value of the authors' code.
    """
    first, second = map(_standardize, views)
    correlation = _product(first.T, second) / len(first)
    diagonal = jnp.diagonal(correlation)
    invariance = jnp.sum((diagonal - 1) ** 2)
    redundancy = jnp.sum(correlation**2) - jnp.sum(diagonal**2)
    return invariance + off_diagonal_weight * redundancy


def vicreg(
    views: Views, invariance_weight: float = 25.0, variance_weight: float = 25.0, covariance_weight: float = 1.0
) -> jax.Array:
    """Return the VICReg loss: weighted terms of invariance, variance and covariance (Bardes et al. 2022, section 4.1).

    As in the authors' code, the invariance is a mean over the dimensions, not a sum, and the variance terms of the two
    views are averaged, not added.

    Args:
      views: the projections.
      invariance_weight, variance_weight, covariance_weight: lambda, mu and nu of the paper.
    """
    first, second = views
    size, width = first.shape
    invariance = jnp.mean((first - second) ** 2)
    variance, covariance = jnp.zeros(()), jnp.zeros(())
    for view in views:
        centered = view - view.mean(0)
        std = jnp.sqrt(jnp.sum(centered**2, 0) / (size - 1) + 1e-4)
        variance += jnp.mean(jax.nn.relu(1 - std)) / 2
        products = _product(centered.T, centered) / (size - 1)
        covariance += (jnp.sum(products**2) - jnp.sum(jnp.diagonal(products) ** 2)) / width
    return invariance_weight * invariance + variance_weight * variance + covariance_weight * covariance


def nt_xent(views: Views, temperature: float = 0.5) -> jax.Array:
    """Return the cross-entropy of identifying the other view of each image (SimCLR: Chen et al. 2020, equation 1).

    The other images of the batch are the wrong choices.

    Args:
      views: the projections.
      temperature: the divisor of the cosine similarities.
    """
    size = len(views.first)
    embeddings = directions(jnp.concatenate(views))
    similarities = _product(embeddings, embeddings.T) / temperature
    similarities = jnp.where(jnp.eye(2 * size, dtype=bool), -jnp.inf, similarities)
    other_view = (jnp.arange(2 * size) + size) % (2 * size)
    return optax.softmax_cross_entropy_with_integer_labels(similarities, other_view).mean()


def byol(predictions: Views, targets: Views) -> jax.Array:
    """Return the squared distance of normalized predictions and targets (Grill et al. 2020, equation 2).

    It is summed over both directions.

    Args:
      predictions: the predictions.
      targets: projections of the momentum target, without gradient.
    """
    return 4 + 4 * simsiam(predictions, targets)


def simsiam(predictions: Views, targets: Views) -> jax.Array:
    """Return the negative mean cosine similarity of predictions and targets (Chen & He 2021, equation 4).

    Args:
      predictions: the predictions.
      targets: the projections, without gradient.
    """
    cosines = _cosines(predictions.first, targets.second) + _cosines(predictions.second, targets.first)
    return -jnp.mean(cosines) / 2


def _cosines(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.sum(directions(first) * directions(second), axis=-1)


def _standardize(embeddings: jax.Array) -> jax.Array:
    """Give each dimension mean 0 and variance 1 over the batch, as a BatchNorm without parameters does."""
    centered = embeddings - embeddings.mean(0)
    return centered * jax.lax.rsqrt(jnp.mean(centered**2, 0) + 1e-5)


def _product(first: jax.Array, second: jax.Array) -> jax.Array:
    """Return the matrix product in full float32 precision, on TPUs and GPUs too."""
    return jnp.matmul(first, second, precision=jax.lax.Precision.HIGHEST)
