"""Codebook codecs: grouped vector quantisation, ASTRA's quantiser (arXiv 2505.19342v2, sec. on grouped VQ).

A token vector of width W is cut into G sub-vectors; each is replaced by the index of the nearest of K code vectors.
Codebooks lie in the file as f16 and are widened when a graph is loaded: encoder and decoder see the same rounded
values, so nothing but disk space is affected.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.export.graph import Graph, GraphBuilder, Port
from tools.export.kmeans import k_means
from tools.export.tensor_file import TensorFile
from tools.export.weights import F32, Affine

F16 = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebook:
    """The codes of one block."""

    codes: F16  # [G, K, W/G]

    @property
    def groups(self) -> int:
        """Sub-vectors per token."""
        return int(self.codes.shape[0])

    @property
    def width(self) -> int:
        """W, the width of the vectors."""
        return int(self.codes.shape[0] * self.codes.shape[2])

    def nearest(self, values: F32) -> npt.NDArray[np.int32]:
        """values [n, W] -> indices [n, G]."""
        codes = self.codes.astype(np.float32)
        parts = values.reshape(len(values), self.groups, -1).transpose(1, 0, 2)  # [G, n, W/G]
        scores = parts @ codes.transpose(0, 2, 1) - 0.5 * np.square(codes).sum(axis=2)[:, None, :]
        return scores.argmax(axis=2).T.astype(np.int32)

    def rebuild(self, indices: npt.NDArray[np.int32]) -> F32:
        """indices [n, G] -> values [n, W]."""
        picked = self.codes.astype(np.float32)[np.arange(self.groups), indices]  # [n, G, W/G]
        return picked.reshape(len(indices), -1)


def fit_codebook(values: F32, *, groups: int, codes: int, seed: int) -> Codebook:
    """K-means per group on values [n, W]; raises ValueError when G does not divide W."""
    if values.shape[1] % groups:
        raise ValueError(f"{groups} groups do not divide a width of {values.shape[1]}")
    rng = np.random.default_rng(seed)
    parts = np.split(values, groups, axis=1)
    centres = [k_means(np.ascontiguousarray(part), codes, rng=rng) for part in parts]
    return Codebook(codes=np.stack(centres).astype(np.float16))


def encode_graph(name: str, book: Codebook, store: TensorFile) -> Graph:
    """values f32 [B, T, W] -> indices i32 [B, T, G]: argmax of x·c - |c|²/2, all groups in one batched product."""
    groups, _, part = book.codes.shape
    build = GraphBuilder(store)
    table = build.op("Transpose", _wide(build, "codes", book.codes), perm=[0, 2, 1])  # [G, W/G, K]
    half = -0.5 * np.square(book.codes.astype(np.float32)).sum(axis=2)[:, None, :]  # [G, 1, K]
    # The norms ride along as one more row of the table against a constant 1: no second pass over [G, B*T, K].
    table = build.op("Concat", table, build.weight("half_norms", half.astype(np.float32)), axis=1)
    by_group = build.op("Reshape", "values", build.ints(-1, groups, part))
    by_group = build.op("Transpose", by_group, perm=[1, 0, 2])  # [G, B*T, W/G]
    by_group = build.op("Pad", by_group, build.ints(0, 0, 0, 0, 0, 1), build.scalar(1.0), mode="constant")
    best = build.op("ArgMax", build.op("MatMul", by_group, table), axis=-1, keepdims=0)  # i64 [G, B*T]
    best = build.op("Transpose", build.op("Cast", best, to=6), perm=[1, 0])
    leading = build.op("Concat", build.op("Shape", "values", start=0, end=2), build.ints(groups), axis=0)
    build.op("Reshape", best, leading, output="indices")
    return build.finish(name, [_values("values", "T", book.width)], [_indices("T", groups)])


def decode_graph(name: str, book: Codebook, store: TensorFile) -> Graph:
    """indices i32 [B, R, G] -> values f32 [B, R, W]: a look-up."""
    groups, codes, part = book.codes.shape
    build = GraphBuilder(store)
    table = build.op("Reshape", _wide(build, "codes", book.codes), build.ints(groups * codes, part))
    picked = build.op("Gather", table, _flat_indices(build, groups, codes), axis=0)  # [B, R, G, W/G]
    build.op("Reshape", picked, build.ints(0, 0, book.width), output="values")
    return build.finish(name, [_indices("R", groups)], [_values("values", "R", book.width)])


def table_decode_graph(name: str, book: Codebook, kv: Affine, store: TensorFile) -> Graph:
    """indices i32 [B, R, G] -> K|V f32 [B, R, 2D] by tables of projected codes.

    Codes taken after LN1 meet nothing but the affine projection, which is a sum over groups: W_K e and W_V e can be
    stored, and no board multiplies a remote token by anything.
    """
    groups, codes, part = book.codes.shape
    build = GraphBuilder(store)
    slices = kv.weight.reshape(groups, part, -1)
    tables = (book.codes.astype(np.float32) @ slices).reshape(groups * codes, -1)  # [G*K, 2D]
    table = _wide(build, "tables", tables.astype(np.float16))
    picked = build.op("Gather", table, _flat_indices(build, groups, codes), axis=0)  # [B, R, G, 2D]
    total = build.op("ReduceSum", picked, build.ints(2), keepdims=0)
    build.op("Add", total, build.weight("bias", kv.bias), output="values")
    return build.finish(name, [_indices("R", groups)], [_values("values", "R", kv.weight.shape[1])])


def _wide(build: GraphBuilder, name: str, array: npt.NDArray[Any]) -> str:  # Any: f16
    """A stored f16 tensor as f32; folded into a constant when the graph is loaded."""
    return build.op("Cast", build.weight(name, array), to=1)


def _flat_indices(build: GraphBuilder, groups: int, codes: int) -> str:
    """Index of group g's code k in a table of all groups: g*K + k."""
    return build.op("Add", "indices", build.weight("bases", np.arange(groups, dtype=np.int32) * np.int32(codes)))


def _values(name: str, tokens: str, width: int) -> Port:
    return Port(name=name, dtype="float32", shape=("B", tokens, width))


def _indices(tokens: str, count: int) -> Port:
    return Port(name="indices", dtype="int32", shape=("B", tokens, count))
