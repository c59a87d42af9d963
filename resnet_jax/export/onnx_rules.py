"""Rules that turn an equation of a jaxpr into ONNX nodes, one for each primitive that our models use.

A rule adds the nodes of one equation to the graph and returns the output of the equation. At least one input depends on
the images; others may be constants. A rule refuses the settings of its primitive that no model uses.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend.core import JaxprEqn

from resnet_jax.export.onnx_graph import BATCH, Graph, Order, Shape, Tensor, Value

CHANNELS_FIRST = (0, 3, 1, 2)  # the order of [batch, height, width, channels] in which ONNX pools

Rule = Callable[[Graph, JaxprEqn, list[Value]], Value]
RULES: dict[str, Rule] = {}  # by the name of the primitive


def _rule(*primitives: str) -> Callable[[Rule], Rule]:
    """Return a decorator that registers the rule of these primitives."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(primitives, rule))
        return rule

    return register


def shape_of(variable: Any) -> Shape:
    """Return the shape of a variable of a jaxpr, with BATCH in place of the batch size.

    Raises:
      NotImplementedError: if another size depends on the batch size.
    """
    shape = tuple(size if isinstance(size, int) else str(size) for size in variable.aval.shape)
    if any(isinstance(size, str) and size != BATCH for size in shape):
        raise unsupported(f"a size that depends on the batch size (shape {shape})")
    return shape


def dtype_of(variable: Any) -> np.dtype:
    """Return the dtype of a variable of a jaxpr."""
    return variable.aval.dtype


def unsupported(what: str) -> NotImplementedError:
    return NotImplementedError(f"cannot convert {what} to ONNX")


def require(equation: JaxprEqn, **settings: Any) -> None:
    """Raise `NotImplementedError` if parameters of the equation differ from the ones that its rule supports."""
    for name, supported in settings.items():
        if equation.params[name] != supported:
            raise unsupported(f"{equation.primitive.name} with {name}={equation.params[name]}")


def _output_shape(equation: JaxprEqn) -> Shape:
    return shape_of(equation.outvars[0])


# ---- Elementwise operations ------------------------------------------------------------------------------------------

OPERATORS = {
    "abs": "Abs",
    "add": "Add",
    "div": "Div",
    "erf": "Erf",
    "exp": "Exp",
    "log": "Log",
    "logistic": "Sigmoid",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}


def _elementwise(graph: Graph, operator: str, *inputs: Value, **attributes) -> Tensor:
    """Add an elementwise node, which broadcasts its inputs as NumPy does."""
    # All inputs get the order of the largest tensor, because transposing that one would take the longest.
    largest = max(inputs, key=lambda value: (isinstance(value, Tensor), sum(size != 1 for size in value.shape)))
    order = graph.as_tensor(largest).order
    shapes = [value.shape for value in inputs if value.shape]
    shape = tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*shapes, strict=True))
    ordered = [graph.in_order(value, order) if value.shape else value for value in inputs]
    return graph.add_node(operator, *ordered, shape=shape, order=order, **attributes)


@_rule(*OPERATORS)
def _operator(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    return _elementwise(graph, OPERATORS[equation.primitive.name], *inputs)


@_rule("max")
def _max(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    del equation
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    if len(tensors) == 1 and not any(value.any() for value in inputs if isinstance(value, np.ndarray)):
        return _elementwise(graph, "Relu", *tensors)  # Runtimes run it as a part of the convolution before it.
    return _elementwise(graph, "Max", *inputs)


@_rule("square")
def _square(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    del equation
    (x,) = inputs
    return _elementwise(graph, "Mul", x, x)


@_rule("rsqrt")
def _rsqrt(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    del equation
    return _elementwise(graph, "Reciprocal", _elementwise(graph, "Sqrt", *inputs))


@_rule("erfc")
def _erfc(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    one = np.ones((), dtype_of(equation.outvars[0]))
    return _elementwise(graph, "Sub", one, _elementwise(graph, "Erf", *inputs))


@_rule("convert_element_type")
def _convert_element_type(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    dtype = np.dtype(equation.params["new_dtype"])
    if dtype == jnp.bfloat16:
        raise unsupported("bfloat16")
    return _elementwise(graph, "Cast", *inputs, to=onnx.helper.np_dtype_to_tensor_dtype(dtype))


@_rule("copy", "stop_gradient")
def _identity(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    del graph, equation
    (x,) = inputs
    return x


# ---- Shapes ----------------------------------------------------------------------------------------------------------


@_rule("broadcast_in_dim")
def _broadcast_in_dim(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    """Add axes of size 1 and repeat nothing. Most nodes do this themselves, and `Graph.repeated` does it for others."""
    (x,) = inputs
    sizes: dict[int, int | str] = dict(zip(equation.params["broadcast_dimensions"], x.shape, strict=True))
    axes = range(len(_output_shape(equation)))
    new_axes = [axis for axis in axes if axis not in sizes]
    if isinstance(x, np.ndarray):
        return np.expand_dims(x, new_axes)
    if not new_axes:
        return x
    shape = tuple(sizes.get(axis, 1) for axis in axes)
    return graph.add_node("Unsqueeze", graph.in_order(x), np.array(new_axes, np.int64), shape=shape)


# All rules so far accept inputs whose size is 1 where values repeat along an axis. The inputs of the rules below are
# repeated first.
BROADCASTING = {*RULES}


@_rule("reshape")
def _reshape(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    """Reshape an array. If this only splits an axis, such as channels into groups, the array is not transposed."""
    require(equation, dimensions=None)
    x = graph.as_tensor(inputs[0])
    shape = _output_shape(equation)
    split = _find_split(x.shape, shape)
    order: Order = ()
    if split is None:
        x, order = graph.in_order(x), tuple(range(len(shape)))
    else:
        added = len(shape) - len(x.shape)
        for axis in x.order:
            first = axis + added if axis > split else axis
            order += tuple(range(first, first + 1 + added)) if axis == split else (first,)
    sizes = [-1 if shape[axis] == BATCH else shape[axis] for axis in order]
    return graph.add_node("Reshape", x, np.array(sizes, np.int64), shape=shape, order=order)


def _find_split(shape: Shape, new_shape: Shape) -> int | None:
    """Return the axis that a reshape splits into several, if it does nothing else.

    Example:
      >>> _find_split((BATCH, 8, 8, 64), (BATCH, 8, 8, 32, 2))
      3
    """
    added = len(new_shape) - len(shape)
    for axis in range(len(shape)):
        others = new_shape[:axis] + new_shape[axis + 1 + added :]
        if added > 0 and shape[:axis] + shape[axis + 1 :] == others:
            return axis
    return None


@_rule("transpose")
def _transpose(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    """Transpose by a change of `Tensor.order`, without a node."""
    x = graph.as_tensor(inputs[0])
    permutation = equation.params["permutation"]
    return Tensor(x.name, _output_shape(equation), tuple(permutation.index(axis) for axis in x.order))


@_rule("pad")
def _pad(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    x, fill_value = graph.as_tensor(inputs[0]), inputs[1]
    before, after, between = zip(*equation.params["padding_config"], strict=True)
    if any(between):
        raise unsupported("padding between values")
    padding = [before[axis] for axis in x.order] + [after[axis] for axis in x.order]
    return graph.add_node(
        "Pad", x, np.array(padding, np.int64), fill_value, shape=_output_shape(equation), order=x.order
    )


@_rule("slice")
def _slice(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    x, shape, params = graph.as_tensor(inputs[0]), _output_shape(equation), equation.params
    strides = params["strides"] or [1] * len(shape)
    axes = [axis for axis in range(len(shape)) if shape[axis] != x.shape[axis]]
    ranges = [(params["start_indices"][axis], params["limit_indices"][axis], strides[axis]) for axis in axes]
    return _add_slice(graph, x, axes, ranges, shape)


@_rule("rev")
def _rev(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    x = graph.as_tensor(inputs[0])
    axes = list(equation.params["dimensions"])
    # The end lies before the first value. An end of -1 would stand for the last value.
    return _add_slice(graph, x, axes, [(-1, np.iinfo(np.int64).min, -1)] * len(axes), x.shape)


def _add_slice(
    graph: Graph, x: Tensor, axes: Sequence[int], ranges: Sequence[tuple[int, int, int]], shape: Shape
) -> Tensor:
    """Slice axes of the JAX array, each by (start, end, step)."""
    if not axes:
        return x
    starts, ends, steps = np.array(ranges, np.int64).T
    onnx_axes = np.array(x.onnx_axes(axes), np.int64)
    return graph.add_node("Slice", x, starts, ends, onnx_axes, steps, shape=shape, order=x.order)


@_rule("concatenate")
def _concatenate(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    order = next(value.order for value in inputs if isinstance(value, Tensor))
    axis = order.index(equation.params["dimension"])
    ordered = [graph.in_order(value, order) for value in inputs]
    return graph.add_node("Concat", *ordered, shape=_output_shape(equation), order=order, axis=axis)


# ---- Reductions, products, convolutions and pooling -----------------------------------------------------------------

REDUCTIONS = {"reduce_max": "ReduceMax", "reduce_sum": "ReduceSum"}


@_rule(*REDUCTIONS)
def _reduce(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    x, axes = graph.as_tensor(inputs[0]), equation.params["axes"]
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    return graph.add_node(
        REDUCTIONS[equation.primitive.name],
        x,
        np.array(x.onnx_axes(axes), np.int64),
        shape=_output_shape(equation),
        order=tuple(kept.index(axis) for axis in x.order if axis in kept),
        keepdims=0,
    )


@_rule("dot_general")
def _dot_general(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    """Multiply an array of any rank by a matrix, along one axis of each."""
    (left_axes, right_axes), (batch_axes, _) = equation.params["dimension_numbers"]
    left, right = inputs
    if len(left_axes) != 1 or batch_axes or 2 not in (len(left.shape), len(right.shape)):
        raise unsupported(f"the product of shapes {left.shape} and {right.shape} along {left_axes} and {right_axes}")
    rank = len(_output_shape(equation))
    if len(right.shape) == 2:
        array, axis, matrix, matrix_axis = left, left_axes[0], right, right_axes[0]
        order = tuple(range(rank))
    else:
        array, axis, matrix, matrix_axis = right, right_axes[0], left, left_axes[0]
        order = (*range(1, rank), 0)  # In the JAX array, the axis of the left input comes first.
    remaining_axes = [number for number in range(len(array.shape)) if number != axis]
    return graph.add_node(
        "MatMul",
        graph.in_order(array, (*remaining_axes, axis)),
        graph.in_order(matrix, (matrix_axis, 1 - matrix_axis)),
        shape=_output_shape(equation),
        order=order,
    )


@_rule("conv_general_dilated")
def _convolution(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    require(equation, batch_group_count=1, lhs_dilation=(1, 1))
    x, kernel = inputs
    params, axes = equation.params, equation.params["dimension_numbers"]
    before, after = zip(*params["padding"], strict=True)
    return graph.add_node(
        "Conv",
        graph.in_order(x, axes.lhs_spec),
        graph.in_order(kernel, axes.rhs_spec),
        shape=_output_shape(equation),
        order=axes.out_spec,
        strides=params["window_strides"],
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
        pads=[*before, *after],
    )


@_rule("reduce_window_max", "reduce_window_sum")
def _pool(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    """Pool over windows of height and width."""
    require(equation, base_dilation=(1, 1, 1, 1), window_dilation=(1, 1, 1, 1))
    (x,), shape, params = inputs, _output_shape(equation), equation.params
    over_batch, *window, over_channels = params["window_dimensions"]
    if (over_batch, over_channels) != (1, 1):
        raise unsupported(f"pooling over windows {params['window_dimensions']}")
    before, after = zip(*params["padding"][1:3], strict=True)
    settings = {"kernel_shape": window, "strides": params["window_strides"][1:3], "pads": [*before, *after]}
    x = graph.in_order(x, CHANNELS_FIRST)
    if equation.primitive.name == "reduce_window_max":
        return graph.add_node("MaxPool", x, shape=shape, order=CHANNELS_FIRST, **settings)
    # ONNX has no pooling by sums. With this setting, the padding counts as zeros.
    mean = graph.add_node("AveragePool", x, shape=shape, order=CHANNELS_FIRST, count_include_pad=1, **settings)
    return _elementwise(graph, "Mul", mean, np.array(math.prod(window), dtype_of(equation.outvars[0])))
