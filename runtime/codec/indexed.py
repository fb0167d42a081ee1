"""Codebook and transform codes: a graph turns tokens into indices, bits travel, a graph turns indices back.

Learned codecs carry no bound per element. What holds: every index is that of the nearest code (of its group, or of its
component), and the relative RMS error on the calibration data is the manifest's `error.value`.
Indices of all boards are decoded by one graph call.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from runtime.arrays import F32, I32, I64, Array
from runtime.codec.base import Graph, Load, Part, Payload, check_finite, checked_shape, opened
from runtime.codec.bitpack import BitLayout, bit_layout, pack, unpack
from runtime.errors import CodecError
from runtime.plan import CodecKind, CodecSpec, DType, StageSpec, TensorSpec, Yields


class IndexedCodec:
    """Grouped vector quantisation (ASTRA, sec. 3.2) and transform coding behind one interface."""

    def __init__(self, spec: CodecSpec, model_width: int, load: Load) -> None:
        """Load the graphs of all blocks. Raises StageError."""
        self.spec = spec
        self._decoded_width = model_width * (2 if spec.yields is Yields.KV else 1)
        blocks = range(len(spec.decode))
        speaking = [block for block in blocks if not spec.silent(block)]
        self._layouts: dict[int, BitLayout] = {block: bit_layout(spec.index_bits(block)) for block in speaking}
        self._encoders: dict[int, Graph] = {
            block: load(self._encoder(block, file)) for block, file in zip(speaking, spec.encode, strict=True)
        }
        self._decoders: tuple[Graph, ...] = tuple(load(self._decoder(block)) for block in blocks)
        self._start = load(self._starter()) if spec.start else None

    def encode(self, values: F32, block: int) -> Payload:
        """See `Codec`. A codec that predicts takes it that no block came before."""
        return self.encode_after(values, block, None)[0]

    def encode_after(self, values: F32, block: int, state: F32 | None) -> tuple[Payload, F32 | None]:
        """Payload and the next block's state; `state` f32 [B, T, M] is what the block before left, None: nothing."""
        batch, tokens, _ = checked_shape(self.spec, values)
        check_finite(self.spec, values, block)
        if self.spec.silent(block):
            return bytearray(), state
        indices, *following = self._encoders[block].run(
            np.ascontiguousarray(values), *self._known(state, batch, tokens)
        )
        layout = self._layouts[block]
        if indices.shape != (batch, tokens, len(layout.widths)):
            raise CodecError(
                self.spec.name, f"its encoder of block {block} returns the shape {indices.shape}", "export again"
            )
        flat = indices.reshape(batch * tokens, len(layout.widths)).astype(np.int32, copy=False)
        self._check_range(flat)
        return pack(flat, layout), _next(following)

    def check(self, payload: Payload, *, block: int, batch: int, tokens: int) -> None:
        """See `Codec`."""
        self.indices([(tokens, payload)], block=block, batch=batch)

    def decode(self, parts: Sequence[Part], *, block: int, batch: int) -> F32:
        """See `Codec`. A codec that predicts takes it that no block came before."""
        return self.decode_after(parts, None, block=block, batch=batch)[0]

    def decode_after(
        self, parts: Sequence[Part], state: F32 | None, *, block: int, batch: int, absent: int = 0
    ) -> tuple[F32, F32 | None]:
        """Values and the next block's state; `state` f32 [B, R, M] is what the block before left, None: nothing.

        `absent`: the last so many of the R tokens, whose codes stayed out.
        """
        indices = self.indices(parts, block=block, batch=batch, absent=absent)
        tokens = indices.shape[1]
        if self.spec.silent(block):
            return self.foretell(state, tokens, block=block, batch=batch), state
        if tokens == 0:
            return np.empty((batch, 0, self._decoded_width), dtype=np.float32), None
        values, *following = self._decoders[block].run(indices, *self._known(state, batch, tokens))
        return values.astype(np.float32, copy=False), _next(following)

    def start(self, places: I64, batch: int) -> F32 | None:
        """The state before the first block of the tokens at `places` [R], f32 [B, R, M]; None: nothing is known."""
        if self._start is None:
            return None
        (state,) = self._start.run(places)
        return np.ascontiguousarray(np.broadcast_to(state.astype(np.float32, copy=False), (batch, *state.shape)))

    def foretell(self, state: F32 | None, tokens: int, *, block: int, batch: int) -> F32:
        """Keys and values of a silent block, from the `state` of the other boards' tokens alone."""
        if not tokens:
            return np.empty((batch, 0, self._decoded_width), dtype=np.float32)
        (values,) = self._decoders[block].run(*self._known(state, batch, tokens))
        return values.astype(np.float32, copy=False)

    def _known(self, state: F32 | None, batch: int, tokens: int) -> tuple[F32, ...]:
        """The state as input of a graph, if the codec has one."""
        if not self.spec.state:
            return ()
        return (np.zeros((batch, tokens, self.spec.state), dtype=np.float32) if state is None else state,)

    def indices(self, parts: Sequence[Part], *, block: int, batch: int, absent: int = 0) -> I32:
        """Payloads of other boards -> i32 [B, R, N], their tokens in the order given. Raises CodecError.

        `absent`: so many tokens more, whose codes stayed out.
        """
        heard = self._heard(parts, block=block, batch=batch)
        if not absent:
            return heard
        gone = np.full((batch, absent, heard.shape[2]), self.spec.absent_index(block), dtype=np.int32)
        return np.concatenate([heard, gone], axis=1)

    def _heard(self, parts: Sequence[Part], *, block: int, batch: int) -> I32:
        streams = [
            (opened(self.spec, payload, block=block, batch=batch, tokens=tokens), batch * tokens)
            for tokens, payload in parts
        ]
        if not parts or self.spec.silent(block):
            count = len(self.spec.index_bits(block))
            return np.empty((batch, sum(tokens for tokens, _ in parts), count), dtype=np.int32)
        layout = self._layouts[block]
        indices = unpack(streams, layout)
        self._check_range(indices)
        if batch == 1:
            return indices[None]
        ends = itertools.accumulate(batch * tokens for tokens, _ in parts)
        boards = np.split(indices, [*ends][:-1])
        return np.concatenate([board.reshape(batch, -1, len(layout.widths)) for board in boards], axis=1)

    def _check_range(self, indices: I32) -> None:
        # Transform indices have exactly as many codes as bits allow; only codebooks can have unused patterns.
        if self.spec.kind is CodecKind.CODEBOOK and indices.size and int(indices.max()) >= self.spec.codes:
            raise CodecError(self.spec.name, f"index {int(indices.max())} lies beyond the {self.spec.codes} codes")

    def _encoder(self, block: int, file: str) -> StageSpec:
        count = len(self.spec.index_bits(block))
        return StageSpec(
            name=f"{self.spec.name}.encode.{block}",
            file=file,
            inputs=(TensorSpec(name="values", dtype=DType.F32, shape=("B", "T", self.spec.width)), *self._state("T")),
            outputs=(TensorSpec(name="indices", dtype=DType.I32, shape=("B", "T", count)), *self._state("T", "next")),
        )

    def _decoder(self, block: int) -> StageSpec:
        count = len(self.spec.index_bits(block))
        return StageSpec(
            name=f"{self.spec.name}.decode.{block}",
            file=self.spec.decode[block],
            inputs=self._state("R")
            if self.spec.silent(block)
            else (TensorSpec(name="indices", dtype=DType.I32, shape=("B", "R", count)), *self._state("R")),
            outputs=(
                TensorSpec(name="values", dtype=DType.F32, shape=("B", "R", self._decoded_width)),
                *(() if self.spec.silent(block) else self._state("R", "next")),
            ),
        )

    def _starter(self) -> StageSpec:
        return StageSpec(
            name=f"{self.spec.name}.start",
            file=self.spec.start,
            inputs=(TensorSpec(name="places", dtype=DType.I64, shape=("R",)),),
            outputs=(TensorSpec(name="state", dtype=DType.F32, shape=("R", self.spec.state)),),
        )

    def _state(self, tokens: str, name: str = "state") -> tuple[TensorSpec, ...]:
        if not self.spec.state:
            return ()
        return (TensorSpec(name=name, dtype=DType.F32, shape=("B", tokens, self.spec.state)),)


def _next(following: list[Array]) -> F32 | None:
    return following[0].astype(np.float32, copy=False) if following else None
