"""Quality of embeddings: signs of collapse, and classification by nearest neighbors."""

import jax
import jax.numpy as jnp

# Below these values of `spread` and `effective_rank`, embeddings count as collapsed.
COLLAPSED_STD = 0.1
COLLAPSED_RANK = 1.2
NEIGHBORS = 20  # that vote in `nearest_neighbor_classes`


def sign_of_collapse(spread: float, effective_rank: float) -> str | None:
    """Return how embeddings have collapsed, or None if they have not.

    Example:
      >>> sign_of_collapse(spread=0.9, effective_rank=1.1)
      'they differ along a single line'
    """
    if spread < COLLAPSED_STD:
        return "they hardly differ between images"
    if effective_rank < COLLAPSED_RANK:
        return "they differ along a single line"
    return None


def directions(embeddings: jax.Array) -> jax.Array:
    """Scale embeddings, [batch, width], to length 1. The gradient is finite even for embeddings that are all zero."""
    squares = jnp.sum(embeddings**2, axis=-1, keepdims=True)
    return embeddings * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def spread(embeddings: jax.Array) -> jax.Array:
    """Return how much embeddings differ in direction, in [0, 1]: 0 if all are the same, 1 if they are isotropic.

    It is the standard deviation over the batch of the dimensions of embeddings of length 1, averaged over the
    dimensions, times sqrt(width) (Chen & He 2021, section 4.1).

    Args:
      embeddings: float32 [batch, width].

    Example:
      >>> float(spread(jnp.array([[1.0, 0.0], [2.0, 0.0]])))
      0.0
    """
    return jnp.std(directions(embeddings), axis=0).mean() * jnp.sqrt(embeddings.shape[-1])


def effective_rank(embeddings: jax.Array) -> jax.Array:
    """Return how many directions embeddings use: 1 if they lie on a line, the width if they are isotropic.

    It is 0 if all embeddings are equal.

    It is the participation ratio (sum of e)^2 / sum of e^2 of the eigenvalues e of the covariance matrix. The two sums
    are the trace and the squared Frobenius norm of the matrix, so no eigenvalues need to be computed.

    Args:
      embeddings: float32 [batch, width].

    Example:
      >>> round(float(effective_rank(jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))), 3)
      2.0
    """
    centered = embeddings - embeddings.mean(0)
    wide = centered.shape[1] > centered.shape[0]
    gram = centered @ centered.T if wide else centered.T @ centered  # Both have the same nonzero eigenvalues.
    return jnp.trace(gram) ** 2 / jnp.maximum(jnp.sum(gram**2), 1e-24)


def nearest_neighbor_classes(
    queries: jax.Array,
    bank: jax.Array,
    labels: jax.Array,
    num_classes: int,
    neighbors: int = NEIGHBORS,
    temperature: float = 0.07,
) -> jax.Array:
    """Classify features by a weighted vote of their nearest neighbors (Wu et al. 2018, section 3.4).

    A neighbor with cosine similarity c has exp(c / temperature) votes for its class.

    Args:
      queries: float32 [m, width].
      bank: float32 [n, width], n >= `neighbors`.
      labels: int32 [n], the classes of the bank.
      num_classes: the number of classes.
      neighbors: how many neighbors vote.
      temperature: see above.

    Returns:
      int32 [m], the class with the most votes.
    """
    # By default, TPUs would multiply in bfloat16.
    cosines = jnp.matmul(directions(queries), directions(bank).T, precision="highest")
    similarities, indices = jax.lax.top_k(cosines, neighbors)
    weights = jnp.exp((similarities - 1) / temperature)  # The factor exp(-1 / temperature) changes no vote.
    votes = jnp.einsum("mk,mkc->mc", weights, jax.nn.one_hot(labels[indices], num_classes))
    return jnp.argmax(votes, axis=-1).astype(jnp.int32)
