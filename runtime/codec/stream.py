"""A codec in use by one request.

Most codecs code every block on its own. One that predicts sends only what its codes of the blocks before do not
foretell of a token, so sender and receivers carry along what those codes said, as a short vector per token (DPCM over
depth; ASTRA, arXiv 2505.19342, codes every block anew). When a board is lost, that vector goes on as foretold, and
with it the keys and values of its tokens, if the codec can (`CodecSpec.absent`). It cannot come back: it knows better.
Before the first block the vector says what the token's place in the picture does, for codecs that have a `start`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from runtime.arrays import F32, I64, Array
from runtime.codec.base import Codec, Part, Payload
from runtime.codec.indexed import IndexedCodec
from runtime.errors import CodecError


class Stream:
    """Payloads of one request, block after block."""

    def __init__(self, codec: Codec, place: int = 0, places: Mapping[int, int] | None = None) -> None:
        """`place`: of the first own token in the picture. `places`: of other boards' first ones, by their numbers.

        None: the other boards' tokens, in their order, fill the picture from its first token to its last.
        """
        self.codec = codec
        self._place, self._places = place, places
        self._tokens = 0  # own ones
        self._predicts = codec if isinstance(codec, IndexedCodec) and codec.spec.state else None
        self._own: F32 | None = None  # [B, T, M] of own tokens
        self._heard: F32 | None = None  # [B, R, M] of the tokens of `_sizes`, in its order
        self._sizes: dict[int, int] = {}  # content tokens of each board by its number
        self._lost: set[int] = set()  # of these, those whose codes stayed out

    def encode(self, values: F32, block: int) -> Payload:
        """See `Codec.encode`."""
        if self._predicts is None:
            return self.codec.encode(values, block)
        if not block:
            self._tokens = values.shape[1]
            places = np.arange(self._place, self._place + self._tokens, dtype=np.int64)
            self._own = self._predicts.start(places, len(values))
        payload, self._own = self._predicts.encode_after(values, block, self._own)
        return payload

    def decode(self, parts: Sequence[Part], origins: Sequence[int], *, block: int, batch: int) -> F32:
        """See `Codec.decode`; `origins` are the numbers of the boards that sent the parts.

        Behind their tokens come those of boards that were heard before, as foretold, if the codec can.
        Raises CodecError, and then leaves the stream as it was; also for a board not heard in the block before.
        """
        if self._predicts is None:
            return self.codec.decode(parts, block=block, batch=batch)
        sizes, lost = self._present(parts, origins, block)
        heard = self._states(sizes) if block else self._start(sizes, batch)
        absent = sum(sizes[origin] for origin in lost)
        values, following = self._predicts.decode_after(parts, heard, block=block, batch=batch, absent=absent)
        self._heard, self._sizes, self._lost = following, sizes, lost
        return values

    def heard(self, parts: Sequence[Part], origins: Sequence[int], *, block: int, batch: int) -> tuple[Array, ...]:
        """What a block that the codec brings along takes of the others: indices, and the state where there is one.

        Raises CodecError as `decode`. Such a block's next state is to be handed to `keep`.
        """
        assert isinstance(self.codec, IndexedCodec)
        if self._predicts is None:
            return (self.codec.indices(parts, block=block, batch=batch),)
        sizes, lost = self._present(parts, origins, block)
        absent = sum(sizes[origin] for origin in lost)
        indices = self.codec.indices(parts, block=block, batch=batch, absent=absent)
        self._heard = self._states(sizes) if block else self._start(sizes, batch)
        self._sizes, self._lost = sizes, lost
        return indices, self.state(batch)

    def state(self, batch: int) -> F32:
        """What was heard of the others so far, f32 [B, R, M]."""
        if self._heard is not None:
            return self._heard
        return np.zeros((batch, sum(self._sizes.values()), self.codec.spec.state), dtype=np.float32)

    def keep(self, following: F32) -> None:
        """The state that a block leaves behind, f32 [B, R, M]."""
        self._heard = following

    def foretold(self, *, block: int, batch: int) -> F32:
        """Keys and values of a silent block, of the boards that were heard last, in their order."""
        assert self._predicts is not None, "only codecs with a state have silent blocks"
        return self._predicts.foretell(self._heard, sum(self._sizes.values()), block=block, batch=batch)

    def _present(self, parts: Sequence[Part], origins: Sequence[int], block: int) -> tuple[dict[int, int], set[int]]:
        """Tokens of each board whose keys and values a block gets, and which of the boards have gone silent.

        Raises CodecError for one that went silent before.
        """
        sizes = {origin: tokens for origin, (tokens, _) in zip(origins, parts, strict=True)}
        if not block or not self.codec.spec.absent:
            return sizes, set()
        if self._lost & sizes.keys():
            raise CodecError(self.codec.spec.name, "a board sends codes that it did not send for the block before")
        gone = {origin: tokens for origin, tokens in self._sizes.items() if origin not in sizes}
        return sizes | gone, set(gone)

    def _start(self, sizes: Mapping[int, int], batch: int) -> F32 | None:
        """The state before the first block of these boards' tokens."""
        if self._predicts is None or not self.codec.spec.start:
            return None
        places: list[I64] = []
        free = 0
        for origin, tokens in sizes.items():
            if self._places is not None:
                free = self._places[origin]
            elif free == self._place:
                free += self._tokens
            places.append(np.arange(free, free + tokens, dtype=np.int64))
            free += tokens
        return self._predicts.start(np.concatenate([np.empty(0, dtype=np.int64), *places]), batch)

    def _states(self, sizes: dict[int, int]) -> F32 | None:
        """What was heard of these boards before."""
        if sizes == self._sizes and list(sizes) == list(self._sizes):
            return self._heard
        if any(self._sizes.get(origin) != tokens for origin, tokens in sizes.items()) or self._heard is None:
            raise CodecError(self.codec.spec.name, "a board sends codes that it did not send for the block before")
        ends = np.cumsum([*self._sizes.values()])
        of = {
            origin: self._heard[:, end - self._sizes[origin] : end]
            for origin, end in zip(self._sizes, ends, strict=True)
        }
        return np.ascontiguousarray(np.concatenate([of[origin] for origin in sizes], axis=1)) if sizes else None
