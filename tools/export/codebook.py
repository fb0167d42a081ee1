"""Codebook codecs: grouped vector quantisation, ASTRA's quantiser (arXiv 2505.19342v2, sec. on grouped VQ).

A token vector of width W is cut into G sub-vectors; each is replaced by the index of the nearest of K code vectors.
Beyond the paper, both optional: the vector may be centred, rotated and cut to its M leading components first (optimised
product quantisation, Ge et al., CVPR 2013), and further stages may quantise what the stages before left over (residual
quantisation). Codes lie in the file as f16 and are widened when a graph is loaded: encoder and decoder see the same
rounded values, so nothing but disk space is affected.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.export.graph import Graph, GraphBuilder, Port
from tools.export.tensor_file import TensorFile
from tools.export.weights import F32, Affine

F16 = npt.NDArray[np.float16]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Where the codes live: (x - mean) @ basis, and back by its transpose."""

    mean: F32  # [W]
    basis: F32  # [W, M], orthonormal columns, M <= W


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebook:
    """The codes of one block; a token's indices are ordered by stage, then group."""

    codes: F16  # [S, G, K, M/G]; S stages, M = W without a rotation
    rotation: Rotation | None = None

    @property
    def indices(self) -> int:
        """S * G, the indices of one token."""
        return int(self.codes.shape[0] * self.codes.shape[1])

    @property
    def inner_width(self) -> int:
        """M, the width of what is cut into groups."""
        return int(self.codes.shape[1] * self.codes.shape[3])

    @property
    def width(self) -> int:
        """W, the width of the vectors."""
        return self.inner_width if self.rotation is None else len(self.rotation.mean)

    def nearest(self, values: F32) -> I32:
        """values [n, W] -> indices [n, S*G]."""
        left = values if self.rotation is None else (values - self.rotation.mean) @ self.rotation.basis
        found = []
        for codes in self.codes.astype(np.float32):  # [G, K, M/G]
            parts = left.reshape(len(values), len(codes), -1).transpose(1, 0, 2)  # [G, n, M/G]
            scores = parts @ codes.transpose(0, 2, 1) - 0.5 * np.square(codes).sum(axis=2)[:, None, :]
            found.append(scores.argmax(axis=2).T.astype(np.int32))
            left = left - _picked(codes, found[-1])
        return np.concatenate(found, axis=1)

    def rebuild(self, indices: I32) -> F32:
        """indices [n, S*G] -> values [n, W]."""
        stages = zip(self.codes.astype(np.float32), np.split(indices, len(self.codes), axis=1), strict=True)
        total: F32 = sum((_picked(codes, own) for codes, own in stages), np.zeros(1, dtype=np.float32))
        if self.rotation is None:
            return total
        return total @ self.rotation.basis.T + self.rotation.mean


def _picked(codes: F32, indices: I32) -> F32:
    """codes [G, K, M/G], indices [n, G] -> [n, M]."""
    return codes[np.arange(len(codes)), indices].reshape(len(indices), -1)


def encode_graph(name: str, book: Codebook, store: TensorFile) -> Graph:
    """values f32 [B, T, W] -> indices i32 [B, T, S*G]: argmax of x·c - |c|²/2, all groups in one batched product."""
    stages, groups, _, part = book.codes.shape
    build = GraphBuilder(store)
    left = "values"
    if book.rotation is not None:
        centred = build.op("Sub", "values", build.weight("mean", book.rotation.mean))
        left = build.op("MatMul", centred, build.weight("basis", book.rotation.basis))
    left = build.op("Reshape", left, build.ints(-1, groups, part))
    left = build.op("Transpose", left, perm=[1, 0, 2])  # [G, B*T, M/G]
    found = []
    for stage in range(stages):
        codes = _wide(build, f"codes.{stage}", book.codes[stage])
        best = _nearest(build, left, codes, book.codes[stage], f"half_norms.{stage}")  # i64 [G, B*T]
        found.append(build.op("Transpose", build.op("Cast", best, to=6), perm=[1, 0]))
        if stage + 1 < stages:
            left = build.op("Sub", left, _lookup_by_group(build, codes, best, book.codes.shape))
    indices = found[0] if stages == 1 else build.op("Concat", *found, axis=1)
    leading = build.op("Concat", build.op("Shape", "values", start=0, end=2), build.ints(book.indices), axis=0)
    build.op("Reshape", indices, leading, output="indices")
    return build.finish(name, [_values("values", "T", book.width)], [_indices("T", book.indices)])


def _nearest(build: GraphBuilder, parts: str, codes: str, own: F16, name: str) -> str:
    """Index of the nearest code for parts [G, n, M/G] in codes [G, K, M/G] -> i64 [G, n]."""
    table = build.op("Transpose", codes, perm=[0, 2, 1])  # [G, M/G, K]
    half = -0.5 * np.square(own.astype(np.float32)).sum(axis=2)[:, None, :]  # [G, 1, K]
    # The norms ride along as one more row of the table against a constant 1: no second pass over [G, n, K].
    table = build.op("Concat", table, build.weight(name, half.astype(np.float32)), axis=1)
    padded = build.op("Pad", parts, build.ints(0, 0, 0, 0, 0, 1), build.scalar(1.0), mode="constant")
    return build.op("ArgMax", build.op("MatMul", padded, table), axis=-1, keepdims=0)


def _lookup_by_group(build: GraphBuilder, codes: str, best: str, shape: tuple[int, ...]) -> str:
    """codes [G, K, M/G], best i64 [G, n] -> [G, n, M/G]."""
    _, groups, count, part = shape
    bases = build.weight("stage_bases", (np.arange(groups) * count)[:, None])
    flat = build.op("Reshape", codes, build.ints(groups * count, part))
    return build.op("Gather", flat, build.op("Add", best, bases), axis=0)


def decode_graph(name: str, book: Codebook, store: TensorFile) -> Graph:
    """indices i32 [B, R, S*G] -> values f32 [B, R, W]: a look-up, and a thin product where there is a rotation."""
    stages, groups, _, part = book.codes.shape
    build = GraphBuilder(store)
    tables = [
        build.op("Reshape", _wide(build, f"codes.{stage}", book.codes[stage]), build.ints(-1, part))
        for stage in range(stages)
    ]
    table = tables[0] if stages == 1 else build.op("Concat", *tables, axis=0)
    picked = build.op("Gather", table, _flat_indices(build, book), axis=0)  # [B, R, S*G, M/G]
    if stages > 1:
        picked = build.op("Reshape", picked, build.ints(0, 0, stages, groups * part))
        picked = build.op("ReduceSum", picked, build.ints(2), keepdims=0)
    if book.rotation is None:
        build.op("Reshape", picked, build.ints(0, 0, book.width), output="values")
    else:
        inner = build.op("Reshape", picked, build.ints(0, 0, book.inner_width))
        # The encoder's own matrix, transposed when the graph is loaded: stored once.
        back = build.op("Transpose", build.weight("basis", book.rotation.basis), perm=[1, 0])
        turned = build.op("MatMul", inner, back)
        build.op("Add", turned, build.weight("mean", book.rotation.mean), output="values")
    return build.finish(name, [_indices("R", book.indices)], [_values("values", "R", book.width)])


def table_decode_graph(name: str, book: Codebook, kv: Affine, store: TensorFile) -> Graph:
    """indices i32 [B, R, S*G] -> K|V f32 [B, R, 2D] by tables of projected codes.

    Codes taken after LN1 meet nothing but the affine projection, which is a sum over groups (and stages): W_K e and
    W_V e can be stored, and no board multiplies a remote token by anything.
    """
    weight, bias = kv.weight, kv.bias
    if book.rotation is not None:
        weight, bias = book.rotation.basis.T @ weight, bias + book.rotation.mean @ weight
    groups, part = book.codes.shape[1], book.codes.shape[3]
    build = GraphBuilder(store)
    tables = book.codes.astype(np.float32) @ weight.reshape(groups, part, -1)  # [S, G, K, 2D]
    table = _wide(build, "tables", tables.reshape(-1, weight.shape[1]).astype(np.float16))
    picked = build.op("Gather", table, _flat_indices(build, book), axis=0)  # [B, R, S*G, 2D]
    total = build.op("ReduceSum", picked, build.ints(2), keepdims=0)
    build.op("Add", total, build.weight("bias", bias), output="values")
    return build.finish(name, [_indices("R", book.indices)], [_values("values", "R", weight.shape[1])])


def _wide(build: GraphBuilder, name: str, array: npt.NDArray[Any]) -> str:  # Any: f16
    """A stored f16 tensor as f32; folded into a constant when the graph is loaded."""
    return build.op("Cast", build.weight(name, array), to=1)


def _flat_indices(build: GraphBuilder, book: Codebook) -> str:
    """Place of code k of stage and group g (counted through) in a table of all codes: g*K + k."""
    bases = np.arange(book.indices, dtype=np.int32) * np.int32(book.codes.shape[2])
    return build.op("Add", "indices", build.weight("bases", bases))


def _values(name: str, tokens: str, width: int) -> Port:
    return Port(name=name, dtype="float32", shape=("B", tokens, width))


def _indices(tokens: str, count: int) -> Port:
    return Port(name="indices", dtype="int32", shape=("B", tokens, count))
