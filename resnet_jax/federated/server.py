"""Server optimizers: how the model of the server follows the average of its clients' models."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

SERVERS = ("average", "momentum", "adam", "yogi")  # values of `federated.server`
SECOND_MOMENT_DECAY = 0.99  # beta_2 of Reddi et al. 2021, section 4


def make_server_optimizer(federated: ConfigDict) -> optax.GradientTransformation:
    """Return the transformation from the mean update of the clients to the update of the server's model.

    - "average": the mean update times `server_rate`. With a rate of 1, this is FedAvg (McMahan et al. 2017).
    - "momentum": FedAvgM, with `v = server_momentum * v + update` (Hsu et al. 2019, section 4.2).
    - "adam", "yogi": FedAdam and FedYogi (Reddi et al. 2021, algorithm 2); see `scale_by_adaptive_moments`.

    Unlike gradients, updates point to where the model is to go, so nothing changes their sign.

    Args:
      federated: the `federated` settings.

    Example:
      >>> from resnet_jax.config import default
      >>> federated = default().federated
      >>> federated.server, federated.server_momentum = "momentum", 0.5
      >>> server = make_server_optimizer(federated)
      >>> state = server.init(jnp.array(0.0))
      >>> _, state = server.update(jnp.array(1.0), state)
      >>> float(server.update(jnp.array(1.0), state)[0])
      1.5
    """
    if federated.server == "average":
        direction = optax.identity()
    elif federated.server == "momentum":
        direction = optax.trace(federated.server_momentum)
    else:
        direction = scale_by_adaptive_moments(
            federated.server_momentum, federated.server_epsilon, is_yogi=federated.server == "yogi"
        )
    return optax.chain(direction, optax.scale(federated.server_rate))


class AdaptiveMoments(NamedTuple):
    """The state of `scale_by_adaptive_moments`: the first and the second moment of the updates."""

    first: optax.Updates
    second: optax.Updates


def scale_by_adaptive_moments(decay: float, epsilon: float, is_yogi: bool) -> optax.GradientTransformation:
    """Return a transformation of updates to m / (sqrt(v) + epsilon) (Reddi et al. 2021, algorithm 2).

    m and v are the moments of the updates. They begin at 0 and epsilon ** 2, and are not corrected for that, unlike
    those of `optax.scale_by_adam` and `optax.scale_by_yogi`.

    Args:
          decay: beta_1, of the first moment; that of the second one is `SECOND_MOMENT_DECAY`.
          epsilon: tau of the paper.
          is_yogi: whether v changes by at most (1 - beta_2) times the squared update (Yogi), or is its average (Adam).
    """

    def init(params: optax.Params) -> AdaptiveMoments:
        return AdaptiveMoments(
            jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda leaf: jnp.full_like(leaf, epsilon**2), params)
        )

    def second_moment(v: jax.Array, update: jax.Array) -> jax.Array:
        square = update**2
        change = square * jnp.sign(square - v) if is_yogi else square - v
        return v + (1 - SECOND_MOMENT_DECAY) * change

    def update(updates: optax.Updates, state: AdaptiveMoments, params=None) -> tuple[optax.Updates, AdaptiveMoments]:
        first = jax.tree.map(lambda m, update: decay * m + (1 - decay) * update, state.first, updates)
        second = jax.tree.map(second_moment, state.second, updates)
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), first, second)
        return scaled, AdaptiveMoments(first, second)

    return optax.GradientTransformation(init, update)


def add_proximal_gradient(factor: float) -> optax.GradientTransformation:
    """Return a transformation that adds the gradient of factor / 2 * |w - w_0| ** 2 (FedProx).

    w_0 are the parameters at the start.

    Li et al. 2020, section 3.2 ("Federated Optimization in Heterogeneous Networks").
    """

    def update(gradients: optax.Updates, start: optax.Params, params=None) -> tuple[optax.Updates, optax.Params]:
        return jax.tree.map(lambda gradient, w, w_0: gradient + factor * (w - w_0), gradients, params, start), start

    return optax.GradientTransformation(lambda params: params, update)
