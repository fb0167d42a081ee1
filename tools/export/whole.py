"""The undivided network as one graph: what a board runs alone, and what every divided run is compared with.

Written apart from the stages on purpose: no shared graph code but the builder, so that a mistake in one shows against
the other. Tensors are those of the stages' file. The last block computes its class token only.
"""

from tools.export.graph import Graph, GraphBuilder, Port
from tools.export.tensor_file import TensorFile
from tools.export.weights import VitWeights


def whole_graph(weights: VitWeights, store: TensorFile) -> Graph:
    """rows u8 [B, tokens, row_bytes] -> logits f32 [B, C]."""
    g, shape = GraphBuilder(store, weights.storage), weights.shape
    patches = g.linear(g.op("Cast", "rows", to=1), weights.patch, "patch", exact=True)
    patches = g.op("Add", patches, g.weight("pos", weights.pos))
    # The class row is repeated over the batch by adding it to a zeroed slice of the patches.
    first = g.op("Slice", patches, g.ints(0), g.ints(1), g.ints(1))
    stream = g.op(
        "Concat", g.op("Add", g.op("Mul", first, g.scalar(0.0)), g.weight("cls", weights.cls)), patches, axis=1
    )
    for index in range(shape.blocks):
        stream = _encoder_block(g, weights, index, stream, cls_only=index == shape.blocks - 1)
    final = g.layer_norm(stream, weights.norm, "norm", eps=shape.eps)
    g.linear(g.op("Squeeze", final, g.ints(1)), weights.head, "head", output="logits", exact=True)
    rows = Port(name="rows", dtype="uint8", shape=("B", shape.tokens, shape.row_bytes))
    return g.finish("whole", [rows], [Port(name="logits", dtype="float32", shape=("B", shape.classes))])


def block_graph(weights: VitWeights, store: TensorFile, index: int) -> Graph:
    """One undivided block over all tokens, x [B, S, D] -> y [B, S, D]: the yardstick of benchmarks."""
    g, width = GraphBuilder(store, weights.storage), weights.shape.width
    result = _encoder_block(g, weights, index, "x", cls_only=False)
    g.op("Identity", result, output="y")
    ports = [Port(name=name, dtype="float32", shape=("B", "S", width)) for name in ("x", "y")]
    return g.finish(f"block.{index}", ports[:1], ports[1:])


def _encoder_block(g: GraphBuilder, weights: VitWeights, index: int, stream: str, *, cls_only: bool) -> str:
    shape, block = weights.shape, weights.blocks[index]
    normed = g.layer_norm(stream, block.norm1, f"{index}.norm1", eps=shape.eps)
    asking, kept = normed, stream
    if cls_only:
        asking = g.op("Slice", normed, g.ints(0), g.ints(1), g.ints(1))
        kept = g.op("Slice", stream, g.ints(0), g.ints(1), g.ints(1))
    queries = _heads(g, g.linear(asking, block.query, f"{index}.query"), shape.heads)
    both = g.split(g.linear(normed, block.kv, f"{index}.kv"), 2, axis=-1)
    keys, values = (_heads(g, part, shape.heads) for part in both)
    scores = g.op("MatMul", queries, g.op("Transpose", keys, perm=[0, 1, 3, 2]))
    context = g.op("MatMul", g.op("Softmax", scores, axis=-1), values)
    context = g.op("Reshape", g.op("Transpose", context, perm=[0, 2, 1, 3]), g.ints(0, 0, -1))
    kept = g.op("Add", kept, g.linear(context, block.out, f"{index}.out"))
    hidden = g.linear(g.layer_norm(kept, block.norm2, f"{index}.norm2", eps=shape.eps), block.up, f"{index}.up")
    return g.op("Add", kept, g.linear(g.activate(hidden, shape.activation), block.down, f"{index}.down"))


def _heads(g: GraphBuilder, value: str, heads: int) -> str:
    """[B, S, D] -> [B, heads, S, D/heads]."""
    return g.op("Transpose", g.op("Reshape", value, g.ints(0, 0, heads, -1)), perm=[0, 2, 1, 3])
