"""An ONNX graph under construction, whose tensors remember the order of their axes.

JAX models keep channels last, and the convolutions of ONNX need them first. A tensor is transposed only where a node
needs another order than the one it has. Between the convolutions of a ResNet, nothing is transposed.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

# The first opset in which all reductions take their axes as an input. ONNX Runtime reads it since version 1.14 (2023).
# Newer opsets add nothing that a ResNet needs.
OPSET = 18
IR_VERSION = 8  # the version of the file format that came with this opset

BATCH = "batch"  # stands for the size of the batch, which a graph does not know
Shape = tuple[int | str, ...]
Order = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value that the graph computes.

    Attributes:
      name: its name in the graph.
      shape: the shape of the JAX array. Where values repeat along an axis, the size may be 1 instead.
      order: ONNX axis `i` is axis `order[i]` of the JAX array.
    """

    name: str
    shape: Shape
    order: Order

    def onnx_axes(self, axes: Iterable[int]) -> list[int]:
        """Return the ONNX axes that correspond to `axes` of the JAX array.

        Example:
          >>> Tensor("images", (BATCH, 32, 32, 3), order=(0, 3, 1, 2)).onnx_axes([1, 2])
          [2, 3]
        """
        return [self.order.index(axis) for axis in axes]


Value = Tensor | np.ndarray  # A constant is an array. Its size, too, may be 1 where values repeat.


class Graph:
    """Nodes in the order in which they run, and the constants that they read.

    Attributes:
      nodes: the nodes, each with one output.
      constants: arrays by name.
      scope: the layer that the next nodes belong to, such as "stage1_block1/conv1". Their names start with it.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.scope = ""
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._num_names = 0

    def add_input(self, name: str, dtype: np.dtype, shape: Shape) -> Tensor:
        """Add an input of the graph."""
        self._inputs.append(_value_info(name, dtype, shape))
        return Tensor(name, shape, _jax_order(shape))

    def add_output(self, name: str, dtype: np.dtype, value: Value) -> None:
        """Add an output of the graph, with the axes of the JAX array."""
        tensor = self.in_order(value)
        self.nodes.append(helper.make_node("Identity", [tensor.name], [name], name=name))
        self._outputs.append(_value_info(name, dtype, tensor.shape))

    def add_constant(self, array: np.ndarray) -> str:
        """Add a constant and return its name."""
        name = self._new_name("constant")
        self.constants[name] = array
        return name

    def add_node(self, operator: str, *inputs: Value, shape: Shape, order: Order | None = None, **attributes) -> Tensor:
        """Add a node and return its output.

        Args:
          operator: an ONNX operator.
          *inputs: its inputs. Tensors keep their order of axes. The axes of constants are those of ONNX.
          shape, order: those of the output, see `Tensor`; order None: the order of the JAX array.
          **attributes: the attributes of the operator.
        """
        names = [self.add_constant(value) if isinstance(value, np.ndarray) else value.name for value in inputs]
        output = self._new_name(operator)
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **attributes))
        return Tensor(output, shape, order or _jax_order(shape))

    def as_tensor(self, value: Value) -> Tensor:
        """Return the value as a tensor, with any order of axes."""
        return value if isinstance(value, Tensor) else self.in_order(value)

    def in_order(self, value: Value, order: Order | None = None) -> Tensor:
        """Return the value with its ONNX axes in this order; None: as in the JAX array."""
        order = order or _jax_order(value.shape)
        if isinstance(value, np.ndarray):
            return Tensor(self.add_constant(np.transpose(value, order)), value.shape, order)
        if value.order == order:
            return value
        return self.add_node("Transpose", value, shape=value.shape, order=order, perm=value.onnx_axes(order))

    def repeated(self, value: Value, shape: Shape) -> Value:
        """Return the value with its full shape, repeated along the axes where its size is 1 instead.

        Raises:
          NotImplementedError: if it is to be repeated along the batch.
        """
        if value.shape == shape:
            return value
        if any(full == BATCH != size for full, size in zip(shape, value.shape, strict=True)):
            raise NotImplementedError(f"cannot convert a value that is the same for all images to ONNX ({self.scope})")
        if isinstance(value, np.ndarray):
            return np.broadcast_to(value, tuple(map(int, shape)))
        # "Expand" does not change an axis for which it is given size 1. The batch is such an axis.
        repeats = [shape[axis] if value.shape[axis] == 1 else 1 for axis in value.order]
        return self.add_node("Expand", value, np.array(repeats, np.int64), shape=shape, order=value.order)

    def remove_unused(self) -> None:
        """Remove the nodes and the constants that no output depends on."""
        used = {output.name for output in self._outputs}
        nodes = []
        for node in reversed(self.nodes):
            if node.output[0] in used:
                used.update(node.input)
                nodes.append(node)
        self.nodes = nodes[::-1]
        self.constants = {name: array for name, array in self.constants.items() if name in used}

    def to_model(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the graph as a checked model."""
        constants = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        model = helper.make_model(
            helper.make_graph(self.nodes, "resnet_jax", self._inputs, self._outputs, constants),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="resnet_jax",
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model

    def _new_name(self, kind: str) -> str:
        self._num_names += 1
        name = f"{kind}_{self._num_names}"
        return f"{self.scope}/{name}" if self.scope else name


def _jax_order(shape: Shape) -> Order:
    return tuple(range(len(shape)))


def _value_info(name: str, dtype: np.dtype, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
