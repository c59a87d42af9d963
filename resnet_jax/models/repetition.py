"""Equal blocks as a loop, compiled once."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def repeat(
    network: nn.Module, block: nn.Module, names: Sequence[str], x: jax.Array, drop_rates: Sequence[float | None]
) -> jax.Array:
    """Applies `block` once for each of `names`, as if `network` had a submodule of each name.

    The variables are those of such submodules, so that networks with and without the loop share their checkpoints: they
    are stacked for the loop, and statistics that it updates are taken apart again. Called inside `network`'s
    `@nn.compact` method, once the variables are there.

    Args:
      network: the module that owns the variables.
      block: a module of no parent that keeps the shape of `x`.
      names: of the submodules.
      x: the input of the first.
      drop_rates: the second argument of each; all None, or none.
    """
    owned = network.variables
    each = [{kind: owned[kind][name] for kind in owned if name in owned[kind]} for name in names]
    keys = jax.random.split(network.make_rng("dropout"), len(names)) if network.has_rng("dropout") else None
    rates = None if drop_rates[0] is None else jnp.array(drop_rates)
    updated = ["batch_stats"] if network.is_mutable_collection("batch_stats") else []

    def body(x: jax.Array, inputs: tuple) -> tuple[jax.Array, dict]:
        variables, key, rate = inputs
        return block.apply(variables, x, rate, rngs={} if key is None else {"dropout": key}, mutable=updated)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    x, updates = jax.lax.scan(body, x, (stacked, keys, rates), length=len(names))
    for kind, tree in updates.items():
        for index, name in enumerate(names):
            network.put_variable(kind, name, jax.tree.map(lambda leaf, index=index: leaf[index], tree))
    return x
