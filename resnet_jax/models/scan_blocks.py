"""A loop over the blocks of identical shape in a stage, so that XLA compiles them only once (`model.scan_blocks`).

Skip this unless you train models of hundreds of layers. With `nn.scan`, a model would keep the variables of all blocks
in stacked arrays. Here each block keeps its own variables, so checkpoints fit models with and without the loop.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def scan_over_blocks(
    model: nn.Module, block: nn.Module, names: Sequence[str], x: jax.Array, drop_rates: Sequence[float | None]
) -> jax.Array:
    """Apply `block` once per name, as if `model` had a submodule of each name.

    The variables of these submodules are stacked for the loop. The batch statistics that the loop updates are unstacked
    again. Call this in the `@nn.compact` method of `model`, after the variables have been initialized.

    Args:
      model: the module that owns the variables.
      block: a module that keeps the shape of `x`. It has no parent.
      names: the names of the submodules.
      x: the input of the first block.
      drop_rates: the drop rate of each block: a number for every block, or None for every block.

    Returns:
      The output of the last block.
    """
    all_variables = model.variables
    block_variables = [
        {kind: all_variables[kind][name] for kind in all_variables if name in all_variables[kind]} for name in names
    ]
    keys = jax.random.split(model.make_rng("dropout"), len(names)) if model.has_rng("dropout") else None
    rates = None if drop_rates[0] is None else jnp.array(drop_rates)
    mutable = ["batch_stats"] if model.is_mutable_collection("batch_stats") else []

    def apply_block(x: jax.Array, inputs: tuple) -> tuple[jax.Array, dict]:
        variables, key, rate = inputs
        rngs = {} if key is None else {"dropout": key}
        # Linen's type includes the bare outputs that `apply` returns if no collection is mutable.
        return block.apply(variables, x, rate, rngs=rngs, mutable=mutable)  # type: ignore[return-value]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *block_variables)
    x, updates = jax.lax.scan(apply_block, x, (stacked, keys, rates), length=len(names))
    for kind, tree in updates.items():
        for index, name in enumerate(names):
            model.put_variable(kind, name, jax.tree.map(lambda leaf, index=index: leaf[index], tree))
    return x
