"""Learning rates of their own for the parts of a network: less for what has been trained before."""

import re

import jax
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

BLOCK = re.compile(r"stage(\d+)_block(\d+)")


def scale_by_part(backbone_scale: float, layer_decay: float) -> optax.GradientTransformation:
    """Multiplies updates by `backbone_scale` but for the head's, and by `layer_decay` for each layer below the head.

    Layers are the blocks and the stem: the last block is decayed once, the one before it twice, and the stem most. A
    norm before the head counts as the last block's. Clark et al. 2020, "ELECTRA", did so first.
    """

    def update(updates: dict, params: dict | None = None) -> dict:
        del params
        factors = part_factors(updates, backbone_scale, layer_decay)
        return jax.tree.map(lambda update, factor: update * factor, updates, factors)

    return optax.stateless(update)


def part_factors(params: dict, backbone_scale: float, layer_decay: float) -> dict:
    """For each leaf of `params` the factor of its learning rate."""
    blocks = sorted({_position(part) for part in params if BLOCK.fullmatch(part)}, reverse=True)

    def factor(part: str) -> float:
        if part == "head":
            return 1.0
        if part == "final_norm":
            return backbone_scale * layer_decay
        above = blocks.index(_position(part)) if BLOCK.fullmatch(part) else len(blocks)
        return backbone_scale * layer_decay ** (above + 1)

    return unflatten_dict({path: factor(path[0]) for path in flatten_dict(params)})


def _position(part: str) -> tuple[int, int]:
    """Stage and block, of which names are no order: block 10 comes after block 9."""
    stage, block = BLOCK.fullmatch(part).groups()
    return int(stage), int(block)
