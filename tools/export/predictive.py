"""Codes of what the codes of earlier blocks do not foretell: differential coding over depth.

The tokens that leave a block resemble those that entered it, and the receiver has their codes. Sender and receivers
carry a state of M values per token, z. Before a block, z predicts its keys and values, z P + p; a transform or a
codebook codes what is left; of what prediction and codes make together, the M leading principal components are the
next z:

    z' = (z P + p + c S + o - centre) basis  =  z F + c G + b        K|V^ = z' basisᵀ + centre

What a token's place says of it, both sides know: Q more values of the state, which stay as they are from block to
block, so that predictions see them and no bits are spent on them.

One more index, that no bits can hold, stands for codes that stayed out: it adds nothing, and the state goes on as
foretold. So what a board said before it was lost is not lost with it.

A block may also be silent: nobody sends anything, and z P + p is what receivers take for its keys and values. Where a
round costs more than its bits (slow processors, links with a long way), fewer and larger messages are faster.

All of it linear, so both graphs are thin products, whatever the depth. (ASTRA, arXiv 2505.19342, codes every block
anew; closed-loop prediction as in DPCM, Cutler 1952.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tools.export import transform
from tools.export.codebook import Codebook
from tools.export.codebook_fit import fit_codebook
from tools.export.graph import Graph, GraphBuilder, Port
from tools.export.tensor_file import TensorFile
from tools.export.transform import Transform, fit_transform, levels_table
from tools.export.weights import F32, Affine

I32 = npt.NDArray[np.int32]
MOST_BITS = 4096  # of a transform, on average over the blocks
MOST_BOOK = 14  # bits of a codebook, on average over the blocks
_RIDGE = 1e-6  # of the state's mean square: components that hardly vary shall not get huge weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictive:
    """The codec of one block, of its keys and values."""

    prediction: F32  # P, [M+Q, W]; the last Q are of the token's place
    ahead: F32  # p, [W]
    inner: Transform | Codebook | None  # of what is left, [W]; a codebook has one group and stage, and no rotation
    basis: F32  # [W, M], orthonormal columns
    centre: F32  # [W]
    readout: tuple[F32, F32] | None = None  # [W, W] and [W]: what boards make of K|V^, if that is not K|V^ itself

    @property
    def onto(self) -> tuple[F32, F32]:
        """What the next state is of keys and values, to receivers: [M, W], its places left out, and [W].

        In a silent block what the state is: [M+Q, W].
        """
        matrix, shift = (self.prediction, self.ahead) if self.inner is None else (self.basis.T, self.centre)
        if self.readout is not None:
            matrix, shift = matrix @ self.readout[0], shift @ self.readout[0] + self.readout[1]
        return np.ascontiguousarray(matrix, dtype=np.float32), shift.astype(np.float32, copy=False)

    @property
    def absent(self) -> int:
        """The index, in every place, of codes that stayed out; 0 in a silent block."""
        return 1 << max(self.bits) if self.bits else 0

    @property
    def bits(self) -> tuple[int, ...]:
        """Of each index; none in a silent block."""
        if self.inner is None:
            return ()
        if isinstance(self.inner, Transform):
            return self.inner.bits
        return ((self.inner.codes.shape[2] - 1).bit_length(),)

    @property
    def state(self) -> int:
        """M+Q."""
        return len(self.prediction)

    @property
    def places(self) -> int:
        """Q."""
        return self.state - int(self.basis.shape[1])

    @property
    def width(self) -> int:
        """W."""
        return len(self.ahead)

    def nearest(self, values: F32, state: F32) -> I32:
        """values [n, W], state [n, M+Q] -> indices [n, N]."""
        if self.inner is None:
            return np.empty((len(values), 0), dtype=np.int32)
        return self.inner.nearest(values - (state @ self.prediction + self.ahead))

    def after(self, indices: I32, state: F32, heard: npt.NDArray[np.bool_] | None = None) -> F32:
        """The next state [n, M+Q]; `heard` bool [n]: whose codes came, None: all."""
        if self.inner is None:
            return state
        said = self.inner.rebuild(indices)
        if heard is not None:
            silence = self.inner.offset if isinstance(self.inner, Transform) else np.float32(0)
            said = np.where(heard[:, None], said, silence)
        rebuilt: F32 = state @ self.prediction + self.ahead + said
        following = np.concatenate([(rebuilt - self.centre) @ self.basis, state[:, self.basis.shape[1] :]], axis=1)
        return following.astype(np.float32, copy=False)

    def rebuild(self, following: F32) -> F32:
        """What a receiver takes for the values, [n, W], from the next state [n, M+Q]."""
        matrix, shift = self.onto
        values: F32 = following[:, : len(matrix)] @ matrix + shift
        return values


def default_state(width: int, bits: int) -> int:
    """M for keys and values of `width` = 2D: 64, more where there are more bits per token and block, at most half of D.

    A wide network is charged for every one of them: in what a block reads of a remote token.
    """
    return max(1, min(width // 4, max(64, bits)))


def share_bits(bits: int, blocks: int) -> tuple[int, ...]:
    """Bits of a predictive codebook's index in each block, `bits` on average: one more where all blocks gain from it.

    Raises ValueError for fewer than 2 bits.
    """
    if bits < 2:
        raise ValueError("a predictive codebook needs 2 bits per block or more")
    if blocks < 4:
        return (bits,) * blocks
    return (bits + 1, *(bits,) * (blocks - 2), bits - 1)


def speaking_bits(bits: int, every: int, blocks: int) -> tuple[int, ...]:
    """Bits of a predictive transform in each block, `bits` on average, when only every so many blocks speak."""
    speaking = -(-blocks // every)
    return tuple(bits * blocks // speaking if block % every == 0 else 0 for block in range(blocks))


def fit_predictive(values: F32, state: F32, *, bits: int = 0, codes: int = 0, seed: int = 0) -> Predictive:
    """Fitted to values [n, W] whose earlier codes left `state` [n, M]; `bits` of a transform, `codes`, or silence."""
    prediction, ahead = predict(values, state)
    if not bits and not codes:
        basis, centre = summarise(state @ prediction + ahead, state.shape[1])
        return Predictive(prediction=prediction, ahead=ahead, inner=None, basis=basis, centre=centre)
    left = values - (state @ prediction + ahead)
    inner = fit_transform(left, bits) if bits else fit_codebook(left, groups=1, codes=codes, seed=seed)
    rebuilt = state @ prediction + ahead + inner.rebuild(inner.nearest(left))
    basis, centre = summarise(rebuilt, state.shape[1])
    return Predictive(prediction=prediction, ahead=ahead, inner=inner, basis=basis, centre=centre)


def predict(values: F32, state: F32) -> tuple[F32, F32]:
    """P [M, W] and p [W]: ridge regression of values [n, W] on a state [n, M]; one without spread tells nothing."""
    middle, mean = state.mean(axis=0), values.mean(axis=0)
    left = (state - middle).astype(np.float64)
    square = left.T @ left
    ridge = _RIDGE * np.trace(square) / len(square) + 1e-9
    prediction = np.linalg.solve(square + ridge * np.eye(len(square)), left.T @ (values - mean)).astype(np.float32)
    return prediction, (mean - middle @ prediction).astype(np.float32)


def summarise(rebuilt: F32, count: int) -> tuple[F32, F32]:
    """Basis [W, count] and centre [W] of the leading principal components of what was rebuilt, [n, W]."""
    centre = rebuilt.mean(axis=0)
    left = (rebuilt - centre).astype(np.float64)
    _, vectors = np.linalg.eigh(left.T @ left)
    return np.ascontiguousarray(vectors[:, ::-1][:, :count], dtype=np.float32), centre.astype(np.float32)


def encode_graph(name: str, fit: Predictive, store: TensorFile, of: Affine) -> Graph:
    """Normed tokens f32 [B, T, D], of which K|V is the affine function `of`, and state -> indices and next state."""
    build = GraphBuilder(store)
    ahead = of.bias - fit.ahead
    if fit.inner is None:
        raise ValueError("a silent block encodes nothing")
    if isinstance(fit.inner, Transform):
        onto = fit.inner.analysis
        thresholds = [
            own - shift for own, shift in zip(fit.inner.thresholds, (ahead - fit.inner.mean) @ onto, strict=True)
        ]
        transform.quantise(build, _seen(build, fit, onto, of), thresholds)
    else:
        codes = _codes(fit.inner)
        constant = ahead @ codes.T - 0.5 * np.square(codes).sum(axis=1)
        scores = build.op("Add", _seen(build, fit, codes.T, of), build.weight("norms", constant.astype(np.float32)))
        build.op("Cast", build.op("ArgMax", scores, axis=-1, keepdims=1), to=6, output="indices")
    advance(build, fit)
    values = Port(name="values", dtype="float32", shape=("B", "T", len(of.weight)))
    return build.finish(
        name, [values, state_port("T", fit)], [indices_port("T", len(fit.bits)), state_port("T", fit, "next")]
    )


def decode_graph(name: str, fit: Predictive, store: TensorFile) -> Graph:
    """indices i32 [B, R, N] and state f32 [B, R, M+Q] -> K|V f32 [B, R, W] and the next state.

    Of a silent block: the state alone -> K|V.
    """
    build = GraphBuilder(store)
    out = Port(name="values", dtype="float32", shape=("B", "R", fit.width))
    matrix, shift = fit.onto
    following = "state" if fit.inner is None else advance(build, fit)
    matrix = np.pad(matrix, ((0, fit.state - len(matrix)), (0, 0)))
    values = build.op("MatMul", following, build.weight("out", matrix))
    build.op("Add", values, build.weight("centre", shift), output="values")
    if fit.inner is None:
        return build.finish(name, [state_port("R", fit)], [out])
    return build.finish(
        name, [indices_port("R", len(fit.bits)), state_port("R", fit)], [out, state_port("R", fit, "next")]
    )


def _seen(build: GraphBuilder, fit: Predictive, onto: F32, of: Affine) -> str:
    """(K|V - z P) @ onto [W, N], but for what is constant."""
    own = build.op("MatMul", "values", build.weight("analysis", np.ascontiguousarray(of.weight @ onto)))
    known = build.op("MatMul", "state", build.weight("known", np.ascontiguousarray(fit.prediction @ onto)))
    return build.op("Sub", own, known)


def advance(build: GraphBuilder, fit: Predictive) -> str:
    """ "state" and "indices" -> "next"."""
    own, places = fit.state - fit.places, fit.places
    keep = np.concatenate([fit.prediction @ fit.basis, np.eye(fit.state, dtype=np.float32)[:, own:]], axis=1)
    kept = build.op("MatMul", "state", build.codec_weight("keep", keep))
    shift = (fit.ahead - fit.centre) @ fit.basis
    if isinstance(fit.inner, Transform):
        levels = levels_table(fit.inner).reshape(len(fit.inner.bits), -1)
        levels = np.pad(levels, ((0, 0), (0, 1)))  # absent: nothing of any component
        bases = np.arange(len(levels), dtype=np.int32) * np.int32(levels.shape[1])
        place = build.op("Add", "indices", build.codec_weight("rows", bases))
        components = build.op("Gather", build.codec_weight("levels", levels.reshape(-1)), place, axis=0)
        added = build.op(
            "MatMul",
            components,
            build.codec_weight("add", np.pad(fit.inner.synthesis @ fit.basis, ((0, 0), (0, places)))),
        )
        shift = shift + fit.inner.offset @ fit.basis
    elif fit.inner is not None:
        table = build.codec_weight("table", np.pad(_codes(fit.inner) @ fit.basis, ((0, 1), (0, places))))
        added = build.op("Squeeze", build.op("Gather", table, "indices", axis=0), build.ints(2))
    shift = np.pad(shift, (0, places)).astype(np.float32)
    return build.op("Add", build.op("Add", kept, added), build.codec_weight("shift", shift), output="next")


def start_graph(name: str, start: F32, store: TensorFile) -> Graph:
    """places i64 [R] of tokens -> their state before the first block f32 [R, M+Q]; `start` [T, M+Q] is that of all."""
    build = GraphBuilder(store)
    build.op("Gather", build.weight("start", start), "places", axis=0, output="state")
    out = Port(name="state", dtype="float32", shape=("R", start.shape[1]))
    return build.finish(name, [Port(name="places", dtype="int64", shape=("R",))], [out])


def _codes(book: Codebook) -> F32:
    """[K, W]."""
    if book.rotation is not None or book.codes.shape[:2] != (1, 1):
        raise ValueError("a predictive codebook has one group and one stage, and no rotation")
    codes: F32 = book.codes[0, 0].astype(np.float32)
    return codes


def indices_port(tokens: str, count: int) -> Port:
    """indices i32 [B, tokens, count]."""
    return Port(name="indices", dtype="int32", shape=("B", tokens, count))


def state_port(tokens: str, fit: Predictive, name: str = "state") -> Port:
    """The state before a block, or the next one: f32 [B, tokens, M]."""
    return Port(name=name, dtype="float32", shape=("B", tokens, fit.state))
