"""A block whose attention works on a transform codec's components, without ever making the others' keys and values.

Decoded keys are k = c S + o with few components c (tens, where keys have hundreds of values), so with the query's head
part q:  q k = (q Sᵀ) c + q o.  The bracket is computed once per query instead of k once per remote token, and the sum
of values under the softmax, p V = (p C) S + (sum of p) o, likewise. One more component that is always 1 carries the
offset. What multi-head latent attention does with learned latents (DeepSeek-V2, arXiv 2405.04434, sec. 2.1), a rotation
and scalar codes allow afterwards. The results are those of decoding first, up to rounding.
"""

import numpy as np

from tools.export import predictive
from tools.export.graph import Graph, GraphBuilder, Port
from tools.export.predictive import Predictive
from tools.export.stages import attend_graph
from tools.export.tensor_file import TensorFile
from tools.export.transform import Transform, levels_table
from tools.export.weights import F32, VitWeights


def component_attend_graph(
    prefix: str, fit: Transform | Predictive, weights: VitWeights, number: int, files: tuple[TensorFile, TensorFile]
) -> Graph:
    """x, q, kv as `attend`, indices i32 [B, R, N] -> the outputs of `attend`; `files`: of the network, of the codec.

    Codes that predict: indices and state f32 [B, R, M] (of a silent block the state alone), whose next values are the
    components; they come out as well, but for the last block.
    """
    build = GraphBuilder(files[0], weights.storage, files[1])
    kept: list[Port] = []
    if isinstance(fit, Transform):
        onto = np.concatenate([fit.synthesis, fit.offset[None]])  # [N+1, 2D]
        found, remote = _components(build, fit), [predictive.indices_port("R", len(fit.bits))]
    elif fit.inner is None:
        onto = _stacked(fit)
        found, remote = "state", [predictive.state_port("R", fit)]
    else:
        onto = _stacked(fit)
        found = predictive.advance(build, fit)
        if fit.places:  # are in the other values already
            found = build.op("Slice", found, build.ints(0), build.ints(fit.state - fit.places), build.ints(2))
        remote = [predictive.indices_port("R", len(fit.bits)), predictive.state_port("R", fit)]
        kept = [predictive.state_port("R", fit, "next")] if number + 1 < weights.shape.blocks else []
    mixed = _attention(build, onto, found, weights.shape.heads, weights.shape.width)
    return attend_graph(build, weights, number, mixed=mixed, remote=remote, prefix=prefix, kept=kept)


def _stacked(fit: Predictive) -> F32:
    matrix, shift = fit.onto
    return np.concatenate([matrix, shift[None]])


def _attention(build: GraphBuilder, onto: F32, found: str, heads: int, width: int) -> str:
    """One softmax over [own | remote] keys; q is scaled already. Returns [B, Tq, D].

    `found`: components of remote tokens f32 [B, R, n]; `onto` [n+1, 2D]: what they, and a 1, are of keys and values.
    """
    size, inner = width // heads, len(onto)
    keys, values = build.split("kv", 2, axis=2)
    by_head = build.ints(0, 0, heads, size)
    query = build.op("Transpose", build.op("Reshape", "q", by_head), perm=[0, 2, 1, 3])  # [B, H, Tq, D/H]
    keys = build.op("Transpose", build.op("Reshape", keys, by_head), perm=[0, 2, 3, 1])
    values = build.op("Transpose", build.op("Reshape", values, by_head), perm=[0, 2, 1, 3])
    components = build.op("Pad", found, build.ints(0, 0, 0, 0, 0, 1), build.scalar(1.0))  # [B, R, n+1]
    to_keys = onto[:, :width].reshape(inner, heads, size).transpose(1, 2, 0)[None]  # [1, H, D/H, n+1]
    to_values = onto[:, width:].reshape(inner, heads, size).transpose(1, 0, 2)[None]  # [1, H, n+1, D/H]
    asked = build.op("MatMul", query, build.codec_weight("to_keys", np.ascontiguousarray(to_keys)))
    # All heads ask for the same components: one product for all of them.
    flat = build.op("Reshape", asked, build.ints(0, -1, inner))  # [B, H*Tq, N+1]
    remote = build.op("MatMul", flat, build.op("Transpose", components, perm=[0, 2, 1]))  # [B, H*Tq, R]
    own = build.op("MatMul", query, keys)  # [B, H, Tq, 1+T]
    queries = build.op("Shape", query, start=0, end=3)
    others = build.op("Shape", components, start=1, end=2)
    remote = build.op("Reshape", remote, build.op("Concat", queries, others, axis=0), allowzero=1)
    shares = build.op("Softmax", build.op("Concat", own, remote, axis=-1), axis=-1)
    parts = build.op("Concat", build.op("Shape", "kv", start=1, end=2), others, axis=0)
    of_own, of_remote = build.split(shares, 2, axis=3, sizes=parts)
    rows = build.op("Shape", flat, start=0, end=2)
    of_remote = build.op("Reshape", of_remote, build.op("Concat", rows, others, axis=0), allowzero=1)
    summed = build.op("MatMul", of_remote, components)  # [B, H*Tq, N+1]
    summed = build.op("Reshape", summed, build.op("Concat", queries, build.ints(inner), axis=0))
    summed = build.op("MatMul", summed, build.codec_weight("to_values", np.ascontiguousarray(to_values)))
    mixed = build.op("Add", build.op("MatMul", of_own, values), summed)
    return build.op("Reshape", build.op("Transpose", mixed, perm=[0, 2, 1, 3]), build.ints(0, 0, width))


def _components(build: GraphBuilder, transform: Transform) -> str:
    depth, count = max(transform.bits), len(transform.bits)
    bases = (np.arange(count) << depth).astype(np.int32)
    place = build.op("Add", "indices", build.codec_weight("bases", bases))
    return build.op("Gather", build.codec_weight("levels", levels_table(transform)), place, axis=0)
