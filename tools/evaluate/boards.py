"""Several boards emulated in one process: each has its own shard of every picture's tokens, all share one model.

Every payload is packed by the runtime's codec and unpacked by it, as on the wire. Only what comes out bit for bit the
same on every receiver is not done twice: a payload is decoded (and, for codecs of block inputs, projected) once for
all receivers together, instead of once per receiver.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from runtime.codec.base import Codec, Part, Payload
from runtime.codec.stream import Stream
from runtime.model import Model
from runtime.plan import CodecSpec, Yields
from runtime.shard import Shard

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
_SCORES_IN_CACHE = 1 << 22  # measured: 32 x 1024 codes are searched 2.5 times as fast when scores stay in the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A board that is not heard of any more from a block's exchange on.

    The others go on without its tokens, or with what its codes of before foretell of them.
    """

    board: int
    block: int


class _Round:
    """The payloads of all boards for one block after the other, decoded once; and what is foretold of a lost one."""

    def __init__(self, model: Model, codec: Codec, places: Sequence[int]) -> None:
        """`places`: the first token of every board."""
        self._model, self._stream = model, Stream(codec, -1, dict(enumerate(places)))
        self._known: dict[int, F32] = {}
        self.foretold: F32 | None = None  # keys and values of the tokens of lost boards, [B, R, 2D]

    def prepare(self, parts: Sequence[Part], origins: Sequence[int], *, block: int, batch: int) -> None:
        """Decode all payloads of a round in one call; `of` finds them by identity."""
        values = self._stream.decode(parts, origins, block=block, batch=batch)
        if self._stream.codec.spec.yields is Yields.INPUT:
            values = self._model.project(values, block)
        *heard, self.foretold = np.split(values, np.cumsum([tokens for tokens, _ in parts]), axis=1)
        self._known = {id(part[1]): own for part, own in zip(parts, heard, strict=True)}

    def of(self, payload: Payload) -> F32:
        """What became of a payload of this round."""
        return self._known[id(payload)]


class _OncePerPayload:
    """The codec of one board, whose `decode` hands out what was decoded for all boards together."""

    def __init__(self, model: Model, codec: Codec, shared: _Round, place: int) -> None:
        """`place`: the board's first token."""
        self._model, self._codec, self._stream, self._round = model, codec, Stream(codec, place), shared
        # Projected already when a shard gets them: no shard shall do it again. And asked about silent blocks, too.
        self.spec: CodecSpec = replace(codec.spec, yields=Yields.KV, state=0, bits=(), start="", absent=False)

    def encode(self, values: F32, block: int) -> Payload:
        """See `Codec`. Large codebooks take the pictures one by one, whose payloads put together are the same bytes."""
        spec = self._codec.spec
        scores = values.shape[0] * values.shape[1] * spec.groups * spec.codes
        if spec.state or scores <= _SCORES_IN_CACHE or values.shape[1] * spec.bits_per_token(block) % 8:
            return self._stream.encode(values, block)
        return b"".join(self._codec.encode(picture[None], block) for picture in values)

    def check(self, payload: Payload, *, block: int, batch: int, tokens: int) -> None:
        """See `Codec`."""
        self._codec.check(payload, block=block, batch=batch, tokens=tokens)

    def decode(self, parts: Sequence[Part], *, block: int, batch: int) -> F32:
        """See `Codec`; only payloads of the round that was prepared last."""
        found = [self._round.of(payload) for _, payload in parts]
        if self._round.foretold is not None:
            found.append(self._round.foretold)
        return (
            np.concatenate(found, axis=1)
            if found
            else np.empty((batch, 0, 2 * self._model.plan.geometry.width), dtype=np.float32)
        )


def divided(model: Model, codec: str, rows: U8, cuts: Sequence[int], loss: Loss | None = None) -> F32:
    """Logits [n, C] of patch rows [n, tokens, row_bytes]; board i holds the tokens [cuts[i], cuts[i+1]).

    Class tokens of the boards that are left are averaged, then the head runs (ASTRA, arXiv 2505.19342, sec. 3.4).
    """
    own, spans = model.codec(codec), list(itertools.pairwise(cuts))
    shared = _Round(model, own, cuts[:-1])
    shards = [Shard(model, _OncePerPayload(model, own, shared, start)) for start, _ in spans]
    for shard, (start, stop) in zip(shards, spans, strict=True):
        shard.embed(np.ascontiguousarray(rows[:, start:stop]), start)
    alive = list(range(len(shards)))
    for block in range(model.plan.geometry.blocks):
        if loss is not None and block == loss.block:
            alive.remove(loss.board)
        parts = [(spans[board][1] - spans[board][0], shards[board].encode()) for board in alive]
        if len(shards) > 1:
            shared.prepare(parts, alive, block=block, batch=len(rows))
        for place, board in enumerate(alive):
            shards[board].attend(parts[:place] + parts[place + 1 :])
    return model.head(np.mean([shards[board].cls for board in alive], axis=0, dtype=np.float32))
