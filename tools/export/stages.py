"""Stage graphs of a board that holds some of the tokens.

Every board holds the whole model, a contiguous range of T content tokens and its own copy of the class token (row 0).
Remote tokens enter a block as ready keys and values only, under one softmax with the board's own: the mixed-precision
attention of ASTRA (arXiv 2505.19342v2) without recomputing remote projections. Residual path, queries, MLP are local.
Symbols: B batch, T own content tokens, R remote content tokens (may be 0), D width, C classes.
"""

from collections.abc import Sequence

from tools.export.graph import Graph, GraphBuilder, Port
from tools.export.tensor_file import TensorFile
from tools.export.weights import VitWeights


def stage_graphs(weights: VitWeights, store: TensorFile) -> list[Graph]:
    """embed, query.0, attend.0, ..., head in the order they run, then project.*."""
    graphs = [_embed(weights, store)]
    for number in range(weights.shape.blocks):
        graphs += [_query(weights, store, number), _attend(weights, store, number)]
    graphs.append(_head(weights, store))
    graphs += [_project(weights, store, number) for number in range(weights.shape.blocks)]
    return graphs


def _embed(weights: VitWeights, store: TensorFile) -> Graph:
    shape, build = weights.shape, GraphBuilder(store, weights.storage)
    content = build.linear(build.op("Cast", "rows", to=1), weights.patch, "patch", exact=True)  # f32 [B, T, D]
    stop = build.op("Add", "start", build.op("Shape", "rows", start=1, end=2))
    content = build.op(
        "Add", content, build.op("Slice", build.weight("pos", weights.pos), "start", stop, build.ints(0))
    )
    batch = build.op("Concat", build.op("Shape", "rows", start=0, end=1), build.ints(1, shape.width), axis=0)
    cls = build.op("Expand", build.weight("cls", weights.cls), batch)
    build.op("Concat", cls, content, axis=1, output="x")
    _enter_block(build, weights, 0, x="x", h="h", kv="kv")
    rows = Port(name="rows", dtype="uint8", shape=("B", "T", shape.row_bytes))
    start = Port(name="start", dtype="int64", shape=(1,))
    return build.finish("embed", [rows, start], _entry_ports(shape.width, "x", "h", "kv"))


def _enter_block(build: GraphBuilder, weights: VitWeights, number: int, *, x: str, h: str, kv: str) -> None:
    """LN1 and the K|V projection of a block: what other boards may need, made as early as possible."""
    block = weights.blocks[number]
    build.layer_norm(x, block.norm1, f"{number}.norm1", eps=weights.shape.eps, output=h)
    build.linear(h, block.kv, f"{number}.kv", output=kv)


def _entry_ports(width: int, x: str, h: str, kv: str) -> list[Port]:
    sizes = ((x, width), (h, width), (kv, 2 * width))
    return [Port(name=name, dtype="float32", shape=("B", "1+T", size)) for name, size in sizes]


def _query(weights: VitWeights, store: TensorFile, number: int) -> Graph:
    width, build = weights.shape.width, GraphBuilder(store, weights.storage)
    source = "h"
    last = number + 1 == weights.shape.blocks
    if last:  # nothing reads the content tokens after the last block
        source = build.op("Slice", "h", build.ints(0), build.ints(1), build.ints(1))
    build.linear(source, weights.blocks[number].query, f"{number}.query", output="q")
    h = Port(name="h", dtype="float32", shape=("B", "1+T", width))
    return build.finish(f"query.{number}", [h], [_query_port(width, last=last)])


def _query_port(width: int, *, last: bool) -> Port:
    return Port(name="q", dtype="float32", shape=("B", 1 if last else "1+T", width))


def _attend(weights: VitWeights, store: TensorFile, number: int) -> Graph:
    build, shape = GraphBuilder(store, weights.storage), weights.shape
    remote = Port(name="remote", dtype="float32", shape=("B", "R", 2 * shape.width))
    mixed = _attention(build, shape.heads, shape.width)
    return attend_graph(build, weights, number, mixed=mixed, remote=[remote])


def attend_graph(
    build: GraphBuilder,
    weights: VitWeights,
    number: int,
    *,
    mixed: str,
    remote: Sequence[Port],
    prefix: str = "",
    kept: Sequence[Port] = (),
) -> Graph:
    """A block from the attention's output `mixed` on, to the next block's entry.

    `remote` is what is known of other boards' tokens; `kept` are outputs for the next block besides its entry.
    """
    shape, block = weights.shape, weights.blocks[number]
    last = number + 1 == shape.blocks
    x = build.op("Slice", "x", build.ints(0), build.ints(1), build.ints(1)) if last else "x"
    x = build.op("Add", x, build.linear(mixed, block.out, f"{number}.out"))
    result = _mlp(build, weights, number, x, output=None if last else "x_next")
    inputs = [
        Port(name="x", dtype="float32", shape=("B", "1+T", shape.width)),
        _query_port(shape.width, last=last),
        Port(name="kv", dtype="float32", shape=("B", "1+T", 2 * shape.width)),
        *remote,
    ]
    name = f"{prefix}attend.{number}"
    if not last:
        _enter_block(build, weights, number + 1, x="x_next", h="h_next", kv="kv_next")
        return build.finish(name, inputs, [*_entry_ports(shape.width, "x_next", "h_next", "kv_next"), *kept])
    flat = build.op("Squeeze", result, build.ints(1))
    build.layer_norm(flat, weights.norm, "norm", eps=shape.eps, output="cls")
    return build.finish(name, inputs, [Port(name="cls", dtype="float32", shape=("B", shape.width))])


def _attention(build: GraphBuilder, heads: int, width: int) -> str:
    """One softmax over [own | remote] keys; q is scaled already. Returns [B, Tq, D]."""
    keys, values = build.split(build.op("Concat", "kv", "remote", axis=1), 2, axis=2)
    by_head = build.ints(0, 0, heads, width // heads)
    query = build.op("Transpose", build.op("Reshape", "q", by_head), perm=[0, 2, 1, 3])
    keys = build.op("Transpose", build.op("Reshape", keys, by_head), perm=[0, 2, 3, 1])
    values = build.op("Transpose", build.op("Reshape", values, by_head), perm=[0, 2, 1, 3])
    shares = build.op("Softmax", build.op("MatMul", query, keys), axis=-1)
    mixed = build.op("Transpose", build.op("MatMul", shares, values), perm=[0, 2, 1, 3])
    return build.op("Reshape", mixed, build.ints(0, 0, width))


def _mlp(build: GraphBuilder, weights: VitWeights, number: int, x: str, *, output: str | None) -> str:
    block = weights.blocks[number]
    h = build.layer_norm(x, block.norm2, f"{number}.norm2", eps=weights.shape.eps)
    inner = build.activate(build.linear(h, block.up, f"{number}.up"), weights.shape.activation)
    return build.op("Add", x, build.linear(inner, block.down, f"{number}.down"), output=output)


def _project(weights: VitWeights, store: TensorFile, number: int) -> Graph:
    """K|V of remote block inputs: ASTRA's own way (sec. on mixed-precision attention), and Voltage's exact exchange."""
    width, build, block = weights.shape.width, GraphBuilder(store, weights.storage), weights.blocks[number]
    h = build.layer_norm("source", block.norm1, f"{number}.norm1", eps=weights.shape.eps)
    build.linear(h, block.kv, f"{number}.kv", output="kv")
    source = Port(name="source", dtype="float32", shape=("B", "R", width))
    return build.finish(f"project.{number}", [source], [Port(name="kv", dtype="float32", shape=("B", "R", 2 * width))])


def _head(weights: VitWeights, store: TensorFile) -> Graph:
    build = GraphBuilder(store, weights.storage)
    build.linear("cls", weights.head, "head", output="logits", exact=True)
    cls = Port(name="cls", dtype="float32", shape=("B", weights.shape.width))
    return build.finish("head", [cls], [Port(name="logits", dtype="float32", shape=("B", weights.shape.classes))])
