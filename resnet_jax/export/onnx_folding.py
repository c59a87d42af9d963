"""Fold BatchNorms, and other scales and biases per channel, into the convolutions before them."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from resnet_jax.export.onnx_graph import Graph


@dataclasses.dataclass(frozen=True)
class _Affine:
    """A node that computes `scale * x + bias`, with float64 [channels] each."""

    node: onnx.NodeProto
    scale: np.ndarray
    bias: np.ndarray


def fold_into_convolutions(graph: Graph) -> None:
    """Merge each convolution, and the scales and biases that follow it, into one convolution with a bias.

    In evaluation, BatchNorm is a scale and a bias per channel: `(y - mean) * factor + bias`. A convolution with the
    kernel `kernel * factor` and the bias `bias - mean * factor` computes the same. Both are computed in float64 and
    rounded once. A value that is also used elsewhere remains a value of the graph, so nothing after it is folded.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    replacements: dict[str, onnx.NodeProto | None] = {}  # None: the node is removed.
    for node in graph.nodes:
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in graph.constants:
            chain = _affine_nodes_after(node, readers, graph.constants)
            if chain:
                replacements |= {affine.node.name: None for affine in chain}
                replacements[node.name] = _fold(graph, node, chain)
    replaced = (replacements.get(node.name, node) for node in graph.nodes)
    graph.nodes = [node for node in replaced if node is not None]
    graph.remove_unused()


def _affine_nodes_after(
    convolution: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]], constants: Mapping[str, np.ndarray]
) -> list[_Affine]:
    """Return the chain of scales and biases that starts with the output of a convolution."""
    kernel = constants[convolution.input[1]]
    chain: list[_Affine] = []
    (output,) = convolution.output
    while len(readers[output]) == 1:
        affine = _as_affine(readers[output][0], output, constants, kernel)
        if affine is None:
            break
        chain.append(affine)
        (output,) = affine.node.output
    return chain


def _as_affine(node: onnx.NodeProto, x: str, constants: Mapping[str, np.ndarray], kernel: np.ndarray) -> _Affine | None:
    """Return the scale and the bias that a node applies to the channels of `x`; None if it does something else."""
    operands = [name for name in node.input if name != x]
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(operands) != 1 or operands[0] not in constants:
        return None
    per_channel = (1, len(kernel), *[1] * (kernel.ndim - 2))
    operand = constants[operands[0]]
    if np.broadcast_shapes(operand.shape, per_channel) != per_channel:
        return None
    value = np.broadcast_to(operand, per_channel).reshape(-1).astype(np.float64)
    one, zero = np.ones_like(value), np.zeros_like(value)
    match node.op_type, node.input[0] == x:
        case "Add", _:
            return _Affine(node, one, value)
        case "Sub", True:
            return _Affine(node, one, -value)
        case "Sub", False:
            return _Affine(node, -one, value)
        case "Mul", _:
            return _Affine(node, value, zero)
        case "Div", True:
            return _Affine(node, 1 / value, zero)
    return None


def _fold(graph: Graph, convolution: onnx.NodeProto, chain: list[_Affine]) -> onnx.NodeProto:
    """Return the convolution that computes what the last node of the chain does."""
    kernel = graph.constants[convolution.input[1]]
    scale, bias = np.ones(len(kernel)), np.zeros(len(kernel))
    for affine in chain:
        scale, bias = affine.scale * scale, affine.scale * bias + affine.bias
    graph.scope = convolution.name
    scaled = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
    constants = [graph.add_constant(array.astype(kernel.dtype)) for array in (scaled, bias)]
    folded = helper.make_node("Conv", [convolution.input[0], *constants], chain[-1].node.output, name=convolution.name)
    folded.attribute.extend(convolution.attribute)
    return folded
