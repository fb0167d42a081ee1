"""How long a request will take, from what boards measured of themselves and of their links. Pure arithmetic.

A request shared by N boards: the input travels, every board embeds its tokens, and then block after block each board
encodes, its codes go to everybody while it computes its queries, and it attends when everybody's codes are here; the
class tokens come back and the head runs. One round's times follow from the round before; after a few rounds they only
repeat, and the rest is multiplied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peer.protocol.profile import CodecTimes, Line, StageTimes
from peer.protocol.types import Exchange, ModelFacts, PeerId

_ROUNDS = 4  # walked through one by one
_MESSAGE_S = 60e-6  # of a board's time for sending and taking one message, before experience corrects it
NARROW = 3.75e6  # bytes per second (30 Mbit/s): up to it inputs are made small; reckoned from both costs, not measured
_PACKED = 0.6  # of a photograph's rows, about
_FREE = Line(fixed_s=0.0, token_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """A board as a forecast sees it."""

    peer: PeerId
    times: StageTimes
    slower: float = 1.0  # how many times longer than its profile says it takes at present
    rate: float = 12.5e6  # bytes per second of its link, each way
    reach_s: float = 0.0  # from the asked board to it, one way
    assumed: bool = False  # the times are another board's: it has not told its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of the boards: a request of a model with one of its codecs."""

    facts: ModelFacts
    codec: str
    batch: int
    file_bytes: int | None = None  # of the compressed picture, where it could be sent instead of rows

    def input_bytes(self, tokens: int, rate: float) -> float:
        """What travels of the input to a board with so many tokens over a link of `rate` bytes per second."""
        rows = tokens * self.facts.row_bytes * self.batch
        if rate > NARROW:
            return rows
        packed = rows * _PACKED
        return packed if self.file_bytes is None else min(packed, self.file_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Seconds from the request to its answer.

    `busy_s`: compute of the board that has most of it; `line_s`: what its codes take on the link that has most of them.
    """

    latency_s: float
    busy_s: float
    line_s: float = 0.0
    round_s: float  # what one more round would take; 0 where there is none
    wait_s: float  # of the latency, what the slowest board waits for others


def mean_block_s(times: StageTimes, facts: ModelFacts, tokens: float) -> float:
    """A board's own time per block, encoding with the default codec included and decoding not: what `speed` is of."""
    codec = times.codec(codec_index(facts, facts.default_codec))
    part = times.at(tokens)
    blocks_s = (facts.blocks - 1) * (part.query_s + part.attend_s) + part.last_s
    rounds = facts.codecs[facts.default_codec].rounds
    return (blocks_s + (rounds * codec.encode.at(tokens) if codec else 0.0)) / facts.blocks


def quoted_tokens(facts: ModelFacts) -> int:
    """The share that a board's speed is quoted for: that of two boards."""
    return max(1, facts.tokens // 2)


def codec_index(facts: ModelFacts, name: str) -> int:
    """A codec's place in the model's list, which every board with the same model has alike."""
    return list(facts.codecs).index(name)


def whole_s(party: Party, load: Load) -> float:
    """The undivided model on one board."""
    return party.times.whole_s * load.batch * party.slower


def elsewhere_s(me: Party, other: Party, load: Load) -> float:
    """The same on another board: its input travels there, the answer back."""
    ship_s = load.input_bytes(load.facts.tokens, min(me.rate, other.rate)) / min(me.rate, other.rate)
    return whole_s(other, load) + ship_s + 2 * other.reach_s + 2 * _MESSAGE_S


def alone(party: Party, load: Load) -> Forecast:
    """Forecast of the undivided model on the asked board."""
    seconds = whole_s(party, load)
    return Forecast(latency_s=seconds, busy_s=seconds, round_s=0.0, wait_s=0.0)


@dataclass(frozen=True, slots=True)
class _Share:
    """One board's part: seconds of its steps, what it sends."""

    begin_s: float
    query_s: float
    attend_s: float  # the next block's encoding included
    last_s: float
    out_s: float  # its codes on its own link, to one board
    in_s: float  # everybody else's codes on its link
    reach_s: float
    busy_s: float


def shared(parties: Sequence[Party], counts: Sequence[int], load: Load, exchange: Exchange, me: PeerId) -> Forecast:
    """Forecast of a request whose tokens are split: `counts[i]` of `parties[i]`; the asked board `me` is among them."""
    shares = _shares(parties, counts, load)
    ready = _begun(parties, counts, shares, load, me)
    rounds, waited = load.facts.codecs[load.codec].rounds, 0.0
    walked = min(rounds - 1, _ROUNDS)
    before = max(ready)
    round_s = 0.0
    for _ in range(walked):
        ready, waits = _round(ready, shares, exchange, last=False)
        round_s, before = max(ready) - before, max(ready)
        waited += waits
    left = rounds - 1 - walked
    ready = [at + left * round_s for at in ready]
    waited += left * (waited / walked if walked else 0.0)
    ready, waits = _round(ready, shares, exchange, last=True)
    feature_bytes = 4 * load.facts.width * load.batch
    gathered = max(
        at + (0.0 if party.peer == me else party.reach_s + feature_bytes / party.rate + _MESSAGE_S)
        for at, party in zip(ready, parties, strict=True)
    )
    head_s = next(party.times.head_s * party.slower for party in parties if party.peer == me)
    return Forecast(
        latency_s=gathered + head_s,
        busy_s=max(share.busy_s for share in shares),
        line_s=rounds * max(max((len(shares) - 1) * share.out_s, share.in_s) for share in shares),
        round_s=round_s,
        wait_s=waited + waits,
    )


def _shares(parties: Sequence[Party], counts: Sequence[int], load: Load) -> list[_Share]:
    facts, batch = load.facts, load.batch
    codec_facts = facts.codecs[load.codec]
    rounds = codec_facts.rounds
    bits_mean = sum(codec_facts.bits_per_token) / rounds
    silent = facts.blocks / rounds - 1  # blocks that follow a round at once
    tokens = sum(counts)
    sizes = [count * batch * bits_mean / 8 for count in counts]
    shares = []
    for party, count, size in zip(parties, counts, sizes, strict=True):
        own, slower = count * batch, party.slower
        codec = codec_times(party.times, load)
        encode_s = codec.encode.at(own) * slower
        decode_s = codec.decode.at((tokens - count) * batch) * slower
        part = party.times.at(own)
        query_s, attend_s, last_s = part.query_s * slower, part.attend_s * slower, part.last_s * slower
        begin_s = part.begin_s * slower + encode_s
        following_s = silent * (query_s + attend_s)
        messages_s = (len(parties) - 1) * _MESSAGE_S
        shares.append(
            _Share(
                begin_s=begin_s,
                query_s=query_s + messages_s,
                attend_s=attend_s + following_s + decode_s + encode_s,
                last_s=last_s + following_s + decode_s,
                out_s=size / party.rate,
                in_s=(sum(sizes) - size) / party.rate,
                reach_s=party.reach_s,
                busy_s=begin_s
                + (facts.blocks - 1) * (query_s + attend_s)
                + last_s
                + (rounds - 1) * encode_s
                + rounds * decode_s,
            )
        )
    return shares


def codec_times(times: StageTimes, load: Load) -> CodecTimes:
    """Of the load's codec; where it was not measured, of the default one; else as if it took no time."""
    wanted = codec_index(load.facts, load.codec)
    default = codec_index(load.facts, load.facts.default_codec)
    return times.codec(wanted) or times.codec(default) or CodecTimes(codec=wanted, encode=_FREE, decode=_FREE)


def _begun(
    parties: Sequence[Party], counts: Sequence[int], shares: Sequence[_Share], load: Load, me: PeerId
) -> list[float]:
    """When each board has its codes of the first block ready; the asked board sends one input after the other."""
    rate = next(party.rate for party in parties if party.peer == me)
    ready, sent_s = [], 0.0
    for party, count, share in zip(parties, counts, shares, strict=True):
        if party.peer == me:
            ready.append(share.begin_s + (len(parties) - 1) * _MESSAGE_S)
            continue
        size = load.input_bytes(count, min(rate, party.rate))
        sent_s += size / rate
        arrived_s = max(sent_s, size / party.rate)
        ready.append(arrived_s + party.reach_s + _MESSAGE_S + share.begin_s)
    return ready


def _round(
    ready: Sequence[float], shares: Sequence[_Share], exchange: Exchange, *, last: bool
) -> tuple[list[float], float]:
    """When each board is through the next block, and how long the last one of them waited."""
    others = len(shares) - 1
    far_s = max(share.reach_s for share in shares)
    if exchange is Exchange.RING:
        # Every board's codes pass N-1 links one after the other; the slowest link sets the pace.
        hop_s = max(share.out_s for share in shares) + far_s + _MESSAGE_S
        sent = [at + others * hop_s for at in ready]
        reach = [0.0] * len(shares)
    else:
        sent = [at + others * share.out_s for at, share in zip(ready, shares, strict=True)]
        # Two boards are as far apart as the farther of them is from the asked one.
        reach = [max(share.reach_s, far_s if share.reach_s == 0.0 else 0.0) for share in shares]
    first, second = _two_latest(sent)
    earliest = min(ready)
    through, longest_wait, latest = [], 0.0, -1.0
    for index, share in enumerate(shares):
        here = (second if index == first[1] else first)[0] + reach[index]
        here = max(here, earliest + share.in_s + reach[index])
        own = ready[index] + (0.0 if last else share.query_s)
        start = max(own, here)
        through.append(start + (share.last_s if last else share.attend_s))
        if through[-1] > latest:
            latest, longest_wait = through[-1], max(0.0, here - own)
    return through, longest_wait


def _two_latest(times: Sequence[float]) -> tuple[tuple[float, int], tuple[float, int]]:
    """The latest time with its index, and the next one; of one board alone nobody's."""
    order = sorted(range(len(times)), key=lambda index: -times[index])[:2]
    first = (times[order[0]], order[0])
    return first, ((times[order[1]], order[1]) if len(order) > 1 else (0.0, -1))
