"""The cost of a model: its parameters, and the multiply-adds of one image.

We count multiply-adds in the jaxpr, because XLA's cost analysis differs in two ways: it leaves out multiply-adds with
padding, which papers count, and it does not count the iterations of a loop.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr

from resnet_jax.models.resnet import ResNet


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a model.

    Attributes:
      parameters: the number of trained values.
      multiply_adds: the multiply-adds of all convolutions and dense layers, for one image.
    """

    parameters: int
    multiply_adds: int


def cost(model: ResNet, image_shape: tuple[int, int, int]) -> Cost:
    """Return the cost of `model` on an image of (height, width, channels), without computing anything.

    As in papers, multiply-adds with padding count as well. XLA's cost analysis leaves them out; for ResNet-18, they are
    7 % of all multiply-adds.

    Example:
      >>> from resnet_jax.models.factory import create_model
      >>> cost(create_model("resnet20", num_classes=10), (32, 32, 3))
      Cost(parameters=269722, multiply_adds=40551040)
    """
    images = jnp.zeros((1, *image_shape))
    variables = _abstract_variables(model, images)
    scanned = model.clone(scan_blocks=True)  # Trace only one of several blocks of identical shape.
    program = jax.make_jaxpr(lambda variables: scanned.apply(variables, images, train=False))(variables)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return Cost(parameters, multiply_adds(program.jaxpr))


def _abstract_variables(model: ResNet, images: jax.Array) -> dict:
    """Return the shapes and dtypes of the variables.

    To save time, only the first two blocks of each stage are traced. All later blocks have the shapes of the second.
    """
    short = model.clone(stage_sizes=[min(size, 2) for size in model.stage_sizes])
    variables = jax.eval_shape(lambda: short.init(jax.random.key(0), images, train=False))
    for tree in variables.values():
        for stage, size in enumerate(model.stage_sizes, 1):
            if f"stage{stage}_block2" in tree:
                block = tree[f"stage{stage}_block2"]
                tree.update({f"stage{stage}_block{index}": block for index in range(3, size + 1)})
    return variables


def multiply_adds(program: Jaxpr) -> int:
    """Count the multiply-adds of all convolutions and matrix products in a jaxpr, in every iteration of its loops."""
    total = 0
    for equation in program.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel, output = _shaped_array(equation.invars[1]), _shaped_array(equation.outvars[0])
            features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += output.size * kernel.size // features
        elif equation.primitive.name == "dot_general":
            left, output = _shaped_array(equation.invars[0]), _shaped_array(equation.outvars[0])
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += output.size * math.prod(left.shape[axis] for axis in contracted)
        else:
            nested = [value for value in equation.params.values() if isinstance(value, ClosedJaxpr | Jaxpr)]
            programs = [value.jaxpr if isinstance(value, ClosedJaxpr) else value for value in nested]
            iterations = equation.params["length"] if equation.primitive.name == "scan" else 1
            total += iterations * sum(map(multiply_adds, programs))
    return total


def _shaped_array(variable: Any) -> ShapedArray:
    """Return the shape and dtype of a variable of a jaxpr."""
    return variable.aval
