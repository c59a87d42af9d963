"""What a network costs: its parameters, and the multiply-adds of one picture."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from resnet_jax.models.resnet import ResNet


@dataclasses.dataclass(frozen=True)
class Cost:
    """parameters: all that is trained; multiply_adds: of the convolutions and the head, for one picture."""

    parameters: int
    multiply_adds: int


def cost(model: ResNet, image_shape: tuple[int, int, int]) -> Cost:
    """The cost of `model` on a picture of (height, width, channels), without computing anything.

    As in papers, the positions where a kernel hangs over the border count like others; XLA's own analysis leaves them
    out, 7 % of ResNet-18's.
    """
    images = jnp.zeros((1, *image_shape))
    variables = _abstract_variables(model, images)
    looped = model.clone(scan_blocks=True)  # Of equal blocks, one is traced.
    program = jax.make_jaxpr(lambda variables: looped.apply(variables, images, train=False))(variables)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return Cost(parameters, multiply_adds(program.jaxpr))


def _abstract_variables(model: ResNet, images: jax.Array) -> dict:
    """Shapes and types of the variables, from a network in which every stage has two blocks at most."""
    short = model.clone(stage_sizes=[min(size, 2) for size in model.stage_sizes])
    variables = jax.eval_shape(lambda: short.init(jax.random.key(0), images, train=False))
    for tree in variables.values():
        for stage, size in enumerate(model.stage_sizes, 1):
            if f"stage{stage}_block2" in tree:
                block = tree[f"stage{stage}_block2"]
                tree.update({f"stage{stage}_block{index}": block for index in range(3, size + 1)})
    return variables


def multiply_adds(program: Jaxpr) -> int:
    """Of all convolutions and matrix products in a program, loops included."""
    total = 0
    for equation in program.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += equation.outvars[0].aval.size * kernel.size // features
        elif equation.primitive.name == "dot_general":
            left, (contracted, _) = equation.invars[0].aval, equation.params["dimension_numbers"][0]
            total += equation.outvars[0].aval.size * math.prod(left.shape[axis] for axis in contracted)
        else:
            inner = [value for value in equation.params.values() if isinstance(value, ClosedJaxpr | Jaxpr)]
            times = equation.params["length"] if equation.primitive.name == "scan" else 1
            total += times * sum(multiply_adds(getattr(each, "jaxpr", each)) for each in inner)
    return total
