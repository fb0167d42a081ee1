"""A small builder of ONNX graphs: values are names, weights go to a shared TensorFile, constants stay inline."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from tools.export.tensor_file import TensorFile
from tools.export.weights import Activation, Affine, Storage

OPSET = 20
_ORT = "com.microsoft"  # operators that onnxruntime brings besides ONNX's
IR_VERSION = 10
TOOLS = "tokenring tools.export"
_WEIGHT_STEPS = 63

Dim = int | str
_ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of a graph; symbolic dimensions are strings."""

    name: str
    dtype: str  # numpy's name
    shape: tuple[Dim, ...]

    def value_info(self) -> ValueInfoProto:
        """The ONNX declaration."""
        return helper.make_tensor_value_info(self.name, _ELEMENTS[self.dtype], list(self.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A finished graph with its ports."""

    name: str
    model: ModelProto
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def file(self) -> str:
        """The file's name in the model folder."""
        return f"{self.name}.onnx"

    def write(self, folder: Path) -> None:
        """Store and check; the external data must lie there already. The same graph gives the same bytes."""
        (folder / self.file).write_bytes(self.model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(folder / self.file))


class GraphBuilder:
    """Collects the nodes of one graph."""

    def __init__(self, weights: TensorFile, storage: Storage = Storage.F32, codec: TensorFile | None = None) -> None:
        """`storage` is that of `linear`'s matrices; `codec` is the file of a codec's numbers, for `codec_weight`."""
        self._weights = weights
        self._codec = codec or weights
        self._storage = storage
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:  # Any: ONNX attributes
        """Append a node with one output; returns the output's name."""
        name = output or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=f"n{len(self._nodes)}", **attributes))
        return name

    def split(self, value: str, parts: int, *, axis: int, sizes: str = "") -> list[str]:
        """Parts along an axis, equal ones unless `sizes`, an int64 vector, says how long each is."""
        names = [f"split_{len(self._nodes)}_{part}" for part in range(parts)]
        name = f"n{len(self._nodes)}"
        if sizes:
            node = helper.make_node("Split", [value, sizes], names, name=name, axis=axis)
        else:
            node = helper.make_node("Split", [value], names, name=name, axis=axis, num_outputs=parts)
        self._nodes.append(node)
        return names

    def ints(self, *values: int) -> str:
        """An inline int64 vector."""
        name = "i" + "_".join(str(value) for value in values)
        self._initializers[name] = numpy_helper.from_array(np.array(values, dtype=np.int64), name)
        return name

    def scalar(self, value: float | int, dtype: str = "float32") -> str:
        """An inline scalar."""
        name = f"s_{dtype}_{value}"
        self._initializers[name] = numpy_helper.from_array(np.array(value, dtype=dtype), name)
        return name

    def weight(self, name: str, array: npt.NDArray[Any]) -> str:  # Any: each element type ONNX knows
        """A tensor in the shared file; equal tensors share a region."""
        self._initializers[name] = self._weights.tensor(name, array)
        return name

    def codec_weight(self, name: str, array: npt.NDArray[Any]) -> str:  # Any: as above
        """The same in the file of a codec."""
        self._initializers[name] = self._codec.tensor(name, array)
        return name

    def linear(self, value: str, affine: Affine, name: str, *, output: str | None = None, exact: bool = False) -> str:
        """value @ weight + bias; `exact` keeps the matrix in f32 whatever the storage."""
        if exact or self._storage is Storage.F32:
            product = self.op("MatMul", value, self.weight(f"{name}.weight", affine.weight))
        else:
            product = self._int8_product(value, affine, name)
        return self.op("Add", product, self.weight(f"{name}.bias", affine.bias), output=output)

    def _int8_product(self, value: str, affine: Affine, name: str) -> str:
        """value @ weight in integers, with one scale per token and one per output.

        Per token and not per tensor (as DynamicQuantizeLinear does): a token's result must not depend on which other
        tokens happen to lie on the same board. Weights have 7 bits: on x86 without VNNI pairs of products are summed in
        16 bits, which saturate with 8. Beside the product there are four passes over activations; ONNX's own operators
        need nine, and a block of ViT-Base a quarter more time (`python -m tools.bench.weight_storage`, with either).
        """
        steps = np.maximum(np.abs(affine.weight).max(axis=0), 1e-12) / np.float32(_WEIGHT_STEPS)
        integers = np.rint(affine.weight / steps).astype(np.int8)
        width, count = affine.weight.shape
        flat = self.op("Reshape", value, self.ints(-1, width))
        largest = self.op("ReduceMax", self.op("Abs", flat), self.ints(-1), keepdims=0)
        scale = self.op("Mul", self.op("Max", largest, self.scalar(1e-12)), self.scalar(1 / 127))
        middle = self.op("Expand", self.scalar(128, "uint8"), self.op("Shape", scale))
        bytes_ = self.op("QuantizeLinear", flat, scale, middle, axis=0)
        product = self.op(
            "MatMulIntegerToFloat",
            bytes_,
            self.weight(f"{name}.integers", integers),
            self.scalar(1.0),
            self.weight(f"{name}.steps", steps.astype(np.float32)),
            self.scalar(128, "uint8"),
            domain=_ORT,
        )
        product = self.op("Mul", product, self.op("Unsqueeze", scale, self.ints(-1)))
        outer = self.op("Shape", value, end=-1)
        return self.op("Reshape", product, self.op("Concat", outer, self.ints(count), axis=0), allowzero=1)

    def layer_norm(self, value: str, affine: Affine, name: str, *, eps: float, output: str | None = None) -> str:
        """LayerNorm over the last axis."""
        gain, offset = self.weight(f"{name}.weight", affine.weight), self.weight(f"{name}.bias", affine.bias)
        return self.op("LayerNormalization", value, gain, offset, output=output, axis=-1, epsilon=eps)

    def activate(self, value: str, kind: Activation) -> str:
        """The MLP's non-linearity."""
        match kind:
            case Activation.GELU:
                return self.op("Gelu", value, approximate="none")
            case Activation.GELU_TANH:
                return self.op("Gelu", value, approximate="tanh")
            case Activation.QUICK_GELU:
                return self.op("Mul", value, self.op("Sigmoid", self.op("Mul", value, self.scalar(1.702))))
            case Activation.RELU:
                return self.op("Relu", value)

    def finish(self, name: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> Graph:
        """Close the graph."""
        graph = helper.make_graph(
            self._nodes,
            name,
            [port.value_info() for port in inputs],
            [port.value_info() for port in outputs],
            list(self._initializers.values()),
        )
        domains = {"": OPSET} | {node.domain: 1 for node in self._nodes if node.domain}
        imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name=TOOLS)
        return Graph(name=name, model=model, inputs=tuple(inputs), outputs=tuple(outputs))
