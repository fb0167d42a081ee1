"""One request on one board: its own tokens, block after block, with keys and values of everybody else's tokens.

    embed -> [encode, query -> attend] for each block -> cls

`encode` needs only own tokens, so its payload leaves first; `query` may run while the others' payloads travel; `attend`
joins both (ASTRA, arXiv 2505.19342, sec. 3.3: own keys exact, remote keys from codes, one softmax). Nothing here waits.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from runtime.arrays import F32, U8, Array
from runtime.codec.base import Codec, Part, Payload
from runtime.codec.indexed import IndexedCodec
from runtime.codec.stream import Stream
from runtime.errors import CodecError, StageError
from runtime.model import Model
from runtime.plan import Source, Yields
from runtime.stage import Stage


class Shard:
    """State of one request. Thread-compatible, like its model; several shards may share one model."""

    def __init__(self, model: Model, codec: Codec, places: Mapping[int, int] | None = None) -> None:
        """`codec` must be one of `model`. `places`: which token of the picture other boards' first ones are.

        By the boards' numbers, as `attend` takes them; None: all others take part, in the order of their tokens.
        """
        self.block = 0  # the block whose payload `encode` makes and `attend` expects; L when done
        self._model = model
        self._codec = codec
        self._places = places
        self._stream = Stream(codec, 0, places)
        self.batch = 0  # pictures in the request
        self.decode_s = 0.0  # time spent on the other boards' payloads so far, projection included
        self._tokens = 0
        self._x: Array | None = None  # f32 [B, 1+T, D] block input
        self._h: Array | None = None  # f32 [B, 1+T, D] after the first LayerNorm
        self._kv: Array | None = None  # f32 [B, 1+T, 2D] own keys and values
        self._q: Array | None = None  # f32 [B, 1+T or 1, D]
        self._cls: F32 | None = None  # f32 [B, D]

    @property
    def done(self) -> bool:
        """Whether the last block has run."""
        return self._cls is not None

    @property
    def cls(self) -> F32:
        """This board's class token after the last block, f32 [B, D]. Raises StageError before that."""
        if self._cls is None:
            raise StageError("head", f"the request is still in block {self.block}", "run all blocks first")
        return self._cls

    def embed(self, rows: U8, start: int) -> None:
        """Take own content tokens, u8 [B, T, row_bytes], of which the first is token `start` of the picture."""
        geometry = self._model.plan.geometry
        shape_fits = rows.ndim == 3 and rows.shape[2] == geometry.row_bytes and 0 not in rows.shape
        if rows.dtype != np.uint8 or not shape_fits or not 0 <= start <= geometry.tokens - rows.shape[1]:
            raise StageError(
                "embed",
                f"cannot take {rows.dtype.name} rows of shape {rows.shape} from token {start} on",
                "check that all boards run the same model",
            )
        self.batch, self._tokens = rows.shape[0], rows.shape[1]
        self._stream = Stream(self._codec, start, self._places)
        self._x, self._h, self._kv = self._model.embed.run(rows, np.array([start], dtype=np.int64))
        self.block, self._q, self._cls = 0, None, None

    def encode(self) -> Payload:
        """Own content tokens of the current block as a payload. Raises CodecError or StageError."""
        match self._codec.spec.source:
            case Source.KV:
                source = self._kv
            case Source.INPUT:
                source = self._x
            case Source.NORMED:
                source = self._h
        return self._stream.encode(self._present(source)[:, 1:], self.block)

    def query(self) -> None:
        """Compute the current block's queries. Calling it is optional: `attend` does what is left."""
        if self._q is None:
            self._q = self._model.query[self.block].run(self._present(self._h))[0]

    def attend(self, payloads: Sequence[Part], origins: Sequence[int] | None = None) -> None:
        """Finish the current block, and silent ones after it.

        `payloads`: (content tokens, payload) of each other board; a lost board may be left out.
        `origins` numbers the boards that sent them, the same way in every block; None: 0, 1, ... and none was lost.
        Raises CodecError for a hostile payload, and then leaves the shard as it was: it may be called again.
        """
        geometry = self._model.plan.geometry
        if any(tokens < 1 for tokens, _ in payloads) or self._tokens + sum(t for t, _ in payloads) > geometry.tokens:
            raise CodecError(
                self._codec.spec.name, f"payloads hold more than the {geometry.tokens} tokens of a picture"
            )
        x, kv = self._present(self._x), self._present(self._kv)
        started = time.perf_counter()
        stages = self._own_stages()
        known = range(len(payloads)) if origins is None else origins
        remote: tuple[Array, ...]
        if stages:
            remote = self._stream.heard(payloads, known, block=self.block, batch=self.batch)
        else:
            stages = self._model.attend
            values = self._stream.decode(payloads, known, block=self.block, batch=self.batch)
            remote = (self._project(values) if self._codec.spec.yields is Yields.INPUT else values,)
        self.decode_s += time.perf_counter() - started
        self.query()
        self._enter(stages[self.block].run(x, self._present(self._q), kv, *remote))
        while not self.done and self._codec.spec.silent(self.block):
            self._silent()

    def _silent(self) -> None:
        """A block before which nobody sends anything."""
        stages = self._own_stages()
        started = time.perf_counter()
        remote = self._stream.state(self.batch) if stages else self._stream.foretold(block=self.block, batch=self.batch)
        self.decode_s += time.perf_counter() - started
        self.query()
        x, q, kv = self._present(self._x), self._present(self._q), self._present(self._kv)
        self._enter((stages or self._model.attend)[self.block].run(x, q, kv, remote))

    def _own_stages(self) -> tuple[Stage, ...]:
        """Blocks that take indices as they travel; a stand-in for a codec has none."""
        return self._model.own_attend(self._codec) if isinstance(self._codec, IndexedCodec) else ()

    def _enter(self, outputs: list[Array]) -> None:
        """The next block, with what the one before leaves."""
        self.block += 1
        self._q = None
        if self.block < self._model.plan.geometry.blocks:
            self._x, self._h, self._kv, *following = outputs
            if following:
                self._stream.keep(following[0].astype(np.float32, copy=False))
        else:
            self._x = self._h = self._kv = None
            self._cls = outputs[0].astype(np.float32, copy=False)

    def _project(self, values: F32) -> F32:
        if values.shape[1] == 0:
            return np.empty((self.batch, 0, 2 * self._model.plan.geometry.width), dtype=np.float32)
        return self._model.project(values, self.block)

    def _present(self, array: Array | None) -> F32:
        """`array`, which exists between `embed` and the end of the last block."""
        if array is None:
            raise StageError(
                "embed" if not self.done else "head", "a shard's calls came out of order", "report this bug"
            )
        return array.astype(np.float32, copy=False)
