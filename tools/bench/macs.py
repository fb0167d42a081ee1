"""Counts the multiply-accumulate operations of a graph's matrix products for given token counts."""

import math
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper, shape_inference

# Matrix products; another kind must be counted here before it may appear in a graph.
_MATRIX_OPS = frozenset({"MatMul", "MatMulInteger"})


def count_macs(path: Path, sizes: dict[str, int]) -> int:
    """MACs of all matrix products of a graph file when its symbolic dimensions have the given sizes.

    Raises ValueError when a product's shape does not follow from them.
    """
    model = onnx.load(path, load_external_data=False)
    _fix_inputs(model, sizes)
    _declare_external(model)
    _spell_out(model)
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    total = 0
    for node in inferred.graph.node:
        if node.op_type in _MATRIX_OPS:
            left, result = shapes[node.input[0]], shapes[node.output[0]]
            if 0 in left or 0 in result:
                raise ValueError(f"{path.name}: the shape of {node.name} is not known")
            total += left[-1] * math.prod(result)
    return total


def _declare_external(model: ModelProto) -> None:
    """Turn tensors whose data lies in another file into inputs: their shapes are enough here."""
    external = [tensor for tensor in model.graph.initializer if tensor.external_data]
    for tensor in external:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        model.graph.initializer.remove(tensor)


def _spell_out(model: ModelProto) -> None:
    """Write onnxruntime's scaled integer product, whose shape ONNX cannot infer, as ONNX's own and a cast."""
    nodes = []
    for node in model.graph.node:
        if node.op_type != "MatMulIntegerToFloat":
            nodes.append(node)
            continue
        sums = f"{node.output[0]}.sums"
        nodes.append(helper.make_node("MatMulInteger", node.input[:2], [sums], name=node.name))
        nodes.append(helper.make_node("Cast", [sums], node.output, to=TensorProto.FLOAT))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _fix_inputs(model: ModelProto, sizes: dict[str, int]) -> None:
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                size = sizes[dim.dim_param]
                dim.ClearField("dim_param")
                dim.dim_value = size
