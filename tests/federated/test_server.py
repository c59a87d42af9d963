"""Server optimizers, compared with the published algorithms in NumPy."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.config import default
from resnet_jax.federated.server import add_proximal_gradient, make_server_optimizer


def published(name, updates, rate, momentum, epsilon, beta2=0.99):
    """Return the parameters after each round, from zero: Hsu et al. 2019 and Reddi et al. 2021, algorithm 2."""
    x = m = np.zeros_like(updates[0])
    v = np.full_like(x, epsilon**2)
    trajectory = []
    for update in updates:
        if name == "average":
            x = x + rate * update
        elif name == "momentum":
            m = momentum * m + update
            x = x + rate * m
        else:
            m = momentum * m + (1 - momentum) * update
            square = update**2
            change = square - v if name == "adam" else -square * np.sign(v - square)
            v = v + (1 - beta2) * change
            x = x + rate * m / (np.sqrt(v) + epsilon)
        trajectory.append(x)
    return trajectory


@pytest.mark.parametrize("name", ["average", "momentum", "adam", "yogi"])
def test_server_follows_the_published_algorithm(name):
    updates = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32) * [1, 0.1, 0.01, 1e-3, 0]
    federated = default().federated
    federated.update(server=name, server_rate=0.3, server_momentum=0.8, server_epsilon=1e-2)
    server = make_server_optimizer(federated)
    x = jnp.zeros(5)
    state = server.init(x)
    for update, expected in zip(updates, published(name, updates, 0.3, 0.8, 1e-2), strict=True):
        step, state = server.update(jnp.asarray(update, jnp.float32), state, x)
        x = optax.apply_updates(x, step)
        np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-7)


def test_proximal_gradient_is_that_of_the_penalty():
    transformation = add_proximal_gradient(0.5)
    state = transformation.init({"w": jnp.array([1.0, 2.0])})
    gradients, _ = transformation.update({"w": jnp.array([0.1, 0.2])}, state, {"w": jnp.array([3.0, 2.0])})
    assert gradients["w"].tolist() == pytest.approx([0.1 + 0.5 * 2, 0.2])
