"""Convert a JAX function of a batch of images to an ONNX model whose batch size is free.

`convert` traces the function to a jaxpr with a symbolic batch size. Equations that do not depend on the images, such as
those that standardize a kernel, are evaluated, and their results become constants of the graph. All other equations are
turned into nodes by the rules in `onnx_rules.py`.

We convert jaxprs ourselves because jax2onnx (0.13 and 0.17) failed on eight of the ten models that we tried. After we
rewrote their max-pool, it converted several of them without an error, but to files with wrong logits. Our converter
knows only the primitives that our models use, and refuses all others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from resnet_jax.export.onnx_folding import fold_into_convolutions
from resnet_jax.export.onnx_graph import BATCH, Graph, Value
from resnet_jax.export.onnx_rules import BROADCASTING, RULES, dtype_of, require, shape_of, unsupported

INPUT = "images"


def convert(
    function: Callable[[jax.Array], Sequence[jax.Array]],
    image_shape: tuple[int, int, int],
    output_names: Sequence[str],
    dtype: Any = np.uint8,
    metadata: Mapping[str, str] | None = None,
    fold: bool = True,
) -> onnx.ModelProto:
    """Convert a function of a batch of images to an ONNX model.

    The model has an input "images". Arrays that `function` closes over become its constants. Models that compute in
    bfloat16 must be cloned with `dtype=jnp.float32` first, because few runtimes have convolutions in bfloat16. Slices
    must be written as `jax.lax.slice`: with a symbolic batch size, JAX traces `x[:, ::2]` to a gather, which no rule
    converts.

    Args:
      function: a function from `dtype` [batch, height, width, channels] to arrays [batch, ...].
      image_shape: (height, width, channels).
      output_names: the names of these arrays.
      dtype: the dtype of the images.
      metadata: texts to store in the model, by key.
      fold: whether to fold BatchNorms into convolutions, see `fold_into_convolutions`.

    Raises:
      NotImplementedError: if no rule converts a primitive or one of its settings, or if the function computes anything
        from the batch size.

    Example:
      >>> model = convert(lambda images: [images.mean(axis=(1, 2))], (8, 8, 3), ["means"], np.float32)
      >>> [node.op_type for node in model.graph.node]
      ['ReduceSum', 'Div', 'Identity']
    """
    # If the batch size were a number, the size of another axis could be mistaken for it.
    (batch_size,) = jax.export.symbolic_shape(BATCH)
    program = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((batch_size, *image_shape), dtype))
    graph = Graph()
    outputs = _convert_program(graph, program, [graph.add_input(INPUT, dtype, (BATCH, *image_shape))])
    for name, value, variable in zip(output_names, outputs, program.jaxpr.outvars, strict=True):
        graph.scope = name
        graph.add_output(name, dtype_of(variable), graph.repeated(value, shape_of(variable)))
    graph.remove_unused()
    if fold:
        fold_into_convolutions(graph)
    return graph.to_model(metadata or {})


# Primitives that run a program, and the parameter that holds it.
CALLS = {"jit": "jaxpr", "remat2": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def _convert_program(graph: Graph, program: Jaxpr | ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
    """Convert all equations of a program, and return its outputs."""
    # JAX 0.10 keeps the constants of a jaxpr in a wrapper around it.
    constants = getattr(program, "consts", ())
    program = getattr(program, "jaxpr", program)
    values: dict[Any, Value] = dict(zip(program.constvars, map(np.asarray, constants), strict=True))
    values |= zip(program.invars, inputs, strict=True)

    def read(variable: Any) -> Value:
        return np.asarray(variable.val, dtype_of(variable)) if isinstance(variable, Literal) else values[variable]

    scope = graph.scope
    for equation in program.eqns:
        graph.scope = _scope(scope, equation)
        outputs = _convert_equation(graph, equation, [read(variable) for variable in equation.invars])
        values |= zip(equation.outvars, outputs, strict=True)
    graph.scope = scope
    return [read(variable) for variable in program.outvars]


def _convert_equation(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Sequence[Value]:
    """Evaluate an equation or add its nodes to the graph, and return its outputs."""
    name = equation.primitive.name
    shapes = [shape_of(variable) for variable in equation.invars]
    output_shapes = [shape_of(variable) for variable in equation.outvars]
    constants = [value for value in inputs if isinstance(value, np.ndarray)]
    if name in CALLS:
        return _convert_program(graph, equation.params[CALLS[name]], inputs)
    if name == "dim_as_value":
        raise unsupported(f"a value that depends on the batch size in {graph.scope or 'the function'}")
    if len(constants) == len(inputs) and not any(BATCH in shape for shape in shapes + output_shapes):
        return _evaluate(equation, constants)
    if name == "scan":
        return _unroll(graph, equation, inputs)
    if name not in RULES:
        raise unsupported(f"the primitive {name!r} in {graph.scope or 'the function'}")
    if name not in BROADCASTING:
        inputs = [graph.repeated(value, shape) for value, shape in zip(inputs, shapes, strict=True)]
    return [RULES[name](graph, equation, inputs)]


def _evaluate(equation: JaxprEqn, constants: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Compute the outputs of an equation."""
    shapes = [shape_of(variable) for variable in equation.invars]
    arrays = [jnp.broadcast_to(array, shape) for array, shape in zip(constants, shapes, strict=True)]
    outputs = equation.primitive.bind(*arrays, **equation.params)
    return [np.asarray(output) for output in (outputs if equation.primitive.multiple_results else [outputs])]


def _unroll(graph: Graph, equation: JaxprEqn, inputs: Sequence[Value]) -> Sequence[Value]:
    """Convert a loop over blocks, as `model.scan_blocks` runs it: convert its program once per block."""
    require(equation, reverse=False)
    program = equation.params["jaxpr"]
    # The inputs of the loop are shared values, then the state, then arrays that hold a value for each block. These have
    # one axis more than the inputs of the program. (JAX 0.10 and 0.12 count the inputs in different parameters.)
    one_block = [shape_of(variable) for variable in program.jaxpr.invars]
    is_stacked = [shape_of(variable) != shape for variable, shape in zip(equation.invars, one_block, strict=True)]
    first_stacked = is_stacked.index(True) if True in is_stacked else len(inputs)
    stacked = [value for value in inputs[first_stacked:] if isinstance(value, np.ndarray)]
    state_shapes = [shape_of(variable) for variable in program.jaxpr.outvars]
    if len(stacked) < sum(is_stacked) or [shape_of(variable) for variable in equation.outvars] != state_shapes:
        raise unsupported("a scan over anything but constants or with stacked outputs")
    first_state = first_stacked - len(state_shapes)
    shared, state = inputs[:first_state], inputs[first_state:first_stacked]
    for block in range(equation.params["length"]):
        state = _convert_program(graph, program, [*shared, *state, *(np.asarray(array[block]) for array in stacked)])
    return state


def _scope(outer: str, equation: JaxprEqn) -> str:
    """Return the names of the modules that an equation belongs to, such as "ResNet/stage1_block1/conv1"."""
    names = [outer, *str(equation.source_info.name_stack).split("/")]
    # Linen also records method calls, such as "stage1_block1.convolve".
    return "/".join(name for name in names if name and "." not in name)
