"""Transform codecs: rotate K|V by its KLT, spend bits by reverse water-filling, quantise each component on its own.

The encoder is one thin product and a few comparisons per component, an order of magnitude less than a search through
codebooks of the same rate; the decoder is a look-up and one thin product. The same graphs serve finite scalar
quantisation with a learned bottleneck (Mentzer et al., arXiv 2309.15505): its squashing function is monotone, so it
only moves the thresholds.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tools.export.graph import Graph, GraphBuilder, Port
from tools.export.tensor_file import TensorFile
from tools.export.weights import F32, Affine

MOST_BITS = 8  # of one component
_BEYOND = np.float32(3e38)  # a threshold that no value exceeds
_ROUNDS = 40
_COUNTED = 300  # thresholds: with more of them a search is faster than a comparison with all (measured)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """The codec of one block; components in order of falling variance."""

    mean: F32  # [W]
    analysis: F32  # [W, N] components of a centred vector
    synthesis: F32  # [N, W] back again; the transpose of `analysis` for a KLT
    bits: tuple[int, ...]  # N, each at least 1
    levels: tuple[F32, ...]  # per component [2**bits], rising
    thresholds: tuple[F32, ...]  # per component [2**bits - 1], rising
    offset: F32  # [W], added after the synthesis; the mean for a KLT

    @property
    def width(self) -> int:
        """W, the width of the vectors."""
        return len(self.mean)

    def projected(self, onto: Affine) -> "Transform":
        """The same codes, rebuilt as x̂ @ weight + bias: for codes after LN1, decoded to keys and values."""
        return replace(self, synthesis=self.synthesis @ onto.weight, offset=self.offset @ onto.weight + onto.bias)

    def nearest(self, values: F32) -> npt.NDArray[np.int32]:
        """values [n, W] -> indices [n, N]."""
        components = (values - self.mean) @ self.analysis
        columns = [np.searchsorted(own, components[:, i]) for i, own in enumerate(self.thresholds)]
        return np.stack(columns, axis=1).astype(np.int32)

    def rebuild(self, indices: npt.NDArray[np.int32]) -> F32:
        """indices [n, N] -> values [n, W]."""
        components = np.stack([own[indices[:, i]] for i, own in enumerate(self.levels)], axis=1)
        result: F32 = components @ self.synthesis + self.offset
        return result


def fit_transform(values: F32, bits: int) -> Transform:
    """KLT of values [n, W], `bits` in all per vector, Lloyd's quantisers from the components' own distributions."""
    mean = values.mean(axis=0)
    centred = values - mean
    covariance = (centred.T @ centred).astype(np.float64) / len(values)
    spectrum, vectors = np.linalg.eigh(covariance)
    order = np.argsort(spectrum)[::-1][:bits]  # no component is worth less than one whole bit
    basis = vectors[:, order].astype(np.float32)
    components = np.sort(centred @ basis, axis=0)  # [n, N], each column rising
    given, levels = _allocate(components, bits)
    used = [index for index, count in enumerate(given) if count]
    basis = np.ascontiguousarray(basis[:, used])
    return Transform(
        mean=mean.astype(np.float32),
        analysis=basis,
        synthesis=np.ascontiguousarray(basis.T),
        bits=tuple(given[index] for index in used),
        levels=tuple(levels[index] for index in used),
        thresholds=tuple(middles(levels[index]).astype(np.float32) for index in used),
        offset=mean.astype(np.float32),
    )


def _allocate(components: F32, bits: int) -> tuple[list[int], list[F32]]:
    """Greedy reverse water-filling: each bit goes where it removes most squared error of the quantisers themselves."""
    count = components.shape[1]
    given, levels = [0] * count, [np.zeros(1, dtype=np.float32)] * count
    errors = [float(np.square(components[:, i]).mean()) for i in range(count)]
    trials: dict[int, tuple[F32, float]] = {}
    queue: list[tuple[float, int]] = []

    def offer(index: int) -> None:
        if given[index] < MOST_BITS:
            trials[index] = lloyd(components[:, index], given[index] + 1)
            heapq.heappush(queue, (trials[index][1] - errors[index], index))

    for index in range(count):
        offer(index)
    for _ in range(bits):
        if not queue:
            break
        _, index = heapq.heappop(queue)
        given[index] += 1
        levels[index], errors[index] = trials[index]
        offer(index)
    return given, levels


def lloyd(rising: F32, bits: int) -> tuple[F32, float]:
    """Lloyd's scalar quantiser of sorted values [n] -> levels [2**bits], mean squared error."""
    count, size = len(rising), 1 << bits
    sums = np.concatenate([[0.0], np.cumsum(rising, dtype=np.float64)])
    squares = np.concatenate([[0.0], np.cumsum(np.square(rising, dtype=np.float64))])
    # Cells of equal cube root of density are asymptotically optimal; equal counts are close enough to start from.
    levels = rising[((np.arange(size) + 0.5) * count / size).astype(np.int64)].astype(np.float64)
    for _ in range(_ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(rising, middles(levels)), [count]])
        filled = np.diff(edges) > 0
        levels[filled] = (np.diff(sums[edges]) / np.maximum(np.diff(edges), 1))[filled]
        levels = np.maximum.accumulate(levels)
    edges = np.concatenate([[0], np.searchsorted(rising, middles(levels)), [count]])
    error = np.diff(squares[edges]) - 2 * levels * np.diff(sums[edges]) + np.square(levels) * np.diff(edges)
    return levels.astype(np.float32), float(error.sum() / count)


def middles(levels: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Decision thresholds between neighbouring levels."""
    return (levels[1:] + levels[:-1]) / 2


def encode_graph(name: str, transform: Transform, store: TensorFile, of: Affine | None = None) -> Graph:
    """values f32 [B, T, W] -> indices i32 [B, T, N].

    With `of` the values are not what the transform was fitted on, but what that is an affine function of: keys and
    values are one of the normed tokens, half as wide, and their components come out of one thin product just as well.
    """
    analysis, middle = transform.analysis, transform.mean @ transform.analysis
    if of is not None:
        analysis, middle = of.weight @ analysis, middle - of.bias @ analysis
    build = GraphBuilder(store)
    components = build.op("MatMul", "values", build.weight("analysis", np.ascontiguousarray(analysis)))
    # Centring is folded into the thresholds: x a > t + mean a.
    thresholds = [own + shift for own, shift in zip(transform.thresholds, middle, strict=True)]
    quantise(build, components, thresholds)
    values = Port(name="values", dtype="float32", shape=("B", "T", len(analysis)))
    return build.finish(name, [values], [Port(name="indices", dtype="int32", shape=("B", "T", len(transform.bits)))])


def quantise(build: GraphBuilder, components: str, thresholds: Sequence[F32]) -> None:
    """components f32 [B, T, N] -> "indices": how many of its own rising thresholds each exceeds."""
    if sum(map(len, thresholds)) <= _COUNTED:
        _count(build, components, thresholds)
    else:
        _descend(build, components, thresholds, max(len(own).bit_length() for own in thresholds))


def _count(build: GraphBuilder, components: str, thresholds: Sequence[F32]) -> None:
    """An index is how many thresholds of its component the value exceeds: few operators, and all at once."""
    owner = np.repeat(np.arange(len(thresholds)), [len(own) for own in thresholds])
    repeated = build.op("Gather", components, build.weight("owner", owner.astype(np.int32)), axis=2)
    above = build.op("Greater", repeated, build.weight("thresholds", np.concatenate(thresholds).astype(np.float32)))
    member = (owner[:, None] == np.arange(len(thresholds))).astype(np.float32)
    counts = build.op("MatMul", build.op("Cast", above, to=1), build.weight("member", member))
    build.op("Cast", counts, to=6, output="indices")


def _descend(build: GraphBuilder, components: str, thresholds: Sequence[F32], depth: int) -> None:
    """A binary search per component, all components in step.

    Node n of a component's tree has the children 2n and 2n+1; a component with fewer bits than the deepest one falls
    to the left first, through thresholds beyond every value. Trees lie behind each other in one table.
    """
    bases = (np.arange(len(thresholds)) << depth).astype(np.int32)
    table = build.weight("thresholds", np.concatenate([_tree(own, depth) for own in thresholds]).astype(np.float32))
    node, place = "", build.weight("roots", bases + 1)
    for level in range(depth):
        above = build.op("Cast", build.op("Greater", components, build.op("Gather", table, place, axis=0)), to=6)
        if level == 0:
            node = build.op("Add", above, build.scalar(2, "int32"))
        else:
            node = build.op("Add", build.op("Add", node, node), above)
        if level + 1 < depth:
            place = build.op("Add", node, build.weight("bases", bases))
    build.op("Sub", node, build.scalar(1 << depth, "int32"), output="indices")


def _tree(thresholds: F32, depth: int) -> F32:
    """Thresholds [2**bits - 1] in heap order; entry 0 is not used."""
    tree = np.full(1 << depth, _BEYOND, dtype=np.float32)
    bits = len(thresholds).bit_length()
    for step in range(bits):
        first = 1 << (depth - bits + step)
        span = (len(thresholds) + 1) >> step
        for prefix in range(1 << step):
            tree[first + prefix] = thresholds[prefix * span + span // 2 - 1]
    return tree


def levels_table(transform: Transform) -> F32:
    """All levels behind each other, 2**(most bits) places for each component: f32 [N * 2**bits]."""
    table = np.zeros((len(transform.bits), 1 << max(transform.bits)), dtype=np.float32)
    for row, levels in zip(table, transform.levels, strict=True):
        row[: len(levels)] = levels
    return table.reshape(-1)


def decode_graph(name: str, transform: Transform, store: TensorFile) -> Graph:
    """indices i32 [B, R, N] -> values f32 [B, R, W]."""
    depth, count, width = max(transform.bits), len(transform.bits), len(transform.offset)
    build = GraphBuilder(store)
    place = build.op("Add", "indices", build.weight("bases", (np.arange(count) << depth).astype(np.int32)))
    components = build.op("Gather", build.weight("levels", levels_table(transform)), place, axis=0)
    if np.array_equal(transform.synthesis, transform.analysis.T):
        # The encoder's own matrix, transposed when the graph is loaded: stored once.
        synthesis = build.op("Transpose", build.weight("analysis", transform.analysis), perm=[1, 0])
    else:
        synthesis = build.weight("synthesis", transform.synthesis)
    values = build.op("MatMul", components, synthesis)
    build.op("Add", values, build.weight("offset", transform.offset), output="values")
    indices = Port(name="indices", dtype="int32", shape=("B", "R", count))
    return build.finish(name, [indices], [Port(name="values", dtype="float32", shape=("B", "R", width))])
