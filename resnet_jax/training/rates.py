"""Learning rates of their own for the parts of a network: less for what has been trained before."""

import re
from collections.abc import Sequence

import jax
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

BLOCK = re.compile(r"stage(\d+)_block(\d+)")


def scale_by_part(
    backbone_scale: float, layer_decay: float, stage_sizes: Sequence[int]
) -> optax.GradientTransformation:
    """Multiplies updates by `backbone_scale` but for the head's, and by `layer_decay` for each layer below the head.

    Layers are the blocks and the stem: the last block is decayed once, the one before it twice, and the stem most. A
    norm before the head counts as the last block's. Clark et al. 2020, "ELECTRA", did so first.
    """

    def update(updates: dict, params: dict | None = None) -> dict:
        del params
        factors = part_factors(updates, backbone_scale, layer_decay, stage_sizes)
        return jax.tree.map(lambda update, factor: update * factor, updates, factors)

    return optax.stateless(update)


def part_factors(params: dict, backbone_scale: float, layer_decay: float, stage_sizes: Sequence[int]) -> dict:
    """For each leaf of `params`, which may be some of a network's, the factor of its learning rate."""

    def factor(part: str) -> float:
        if part == "head":
            return 1.0
        if part == "final_norm":
            return backbone_scale * layer_decay
        block = BLOCK.fullmatch(part)
        number = sum(stage_sizes[: int(block[1]) - 1]) + int(block[2]) if block else 0  # The stem lies below the first.
        return backbone_scale * layer_decay ** (sum(stage_sizes) - number + 1)

    return unflatten_dict({path: factor(path[0]) for path in flatten_dict(params)})
