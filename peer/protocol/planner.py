"""Which boards run a request, and how: every way worth trying is forecast, the one that is through first is taken.

One board alone is always among the ways, so a ring that would lose is never chosen. Pure and deterministic: the same
facts give the same plan on every board, in whatever order the boards are named.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from peer.protocol.forecast import Forecast, Load, Party, alone, codec_index, codec_times, elsewhere_s, shared
from peer.protocol.partition import partition
from peer.protocol.profile import line_through
from peer.protocol.shares import EVEN
from peer.protocol.types import Exchange, PeerId

WORTHWHILE = 0.95  # of one board's time: a smaller gain is not worth the other boards' work
STAY = 0.92  # of the usual way's time: a smaller gain is no reason to change, or the choice would flap
_STEPS = 16  # of a bisection: a hundredth of a token


class Way(Enum):
    """How a request is run."""

    SINGLE = "single"  # undivided, on the asked board
    ELSEWHERE = "elsewhere"  # undivided, on another board
    SEQUENCE = "sequence"  # its tokens split over several boards


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to run a request, before experience corrects its forecast."""

    way: Way
    boards: tuple[PeerId, ...]  # in ring order
    counts: tuple[int, ...]  # tokens of each
    exchange: Exchange
    codec: str
    forecast: Forecast
    assumed: bool = False  # some board's times, or some link's, are guessed
    timed: bool = True  # every board has measured the codec, or the default one, whose work is alike

    @property
    def key(self) -> "Key":
        return self.way, self.boards, self.exchange, self.codec if self.way is Way.SEQUENCE else ""


Key = tuple[Way, tuple[PeerId, ...], Exchange, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen and why; `latency_s` is corrected by experience, and counts waiting for busy boards."""

    option: Option
    latency_s: float
    reason: str


Correct = Callable[[Option], float]  # an option -> what its forecast is to be multiplied with


def options(load: Load, parties: Sequence[Party], me: PeerId, exchanges: Sequence[Exchange]) -> tuple[Option, ...]:
    """Every way worth trying: one board alone, each other board alone, and the fastest 2, 3, ... boards together."""
    ordered = sorted(parties, key=lambda party: party.peer)
    asked = next(party for party in ordered if party.peer == me)
    tokens = load.facts.tokens
    found = [_one(Way.SINGLE, asked, load, alone(asked, load))]
    for party in ordered:
        if party.peer != me:
            seconds = elsewhere_s(asked, party, load)
            forecast = Forecast(latency_s=seconds, busy_s=alone(party, load).busy_s, round_s=0.0, wait_s=0.0)
            found.append(_one(Way.ELSEWHERE, party, load, forecast))
    even = tokens / max(2, len(ordered))
    fastest = sorted(ordered, key=lambda party: (party.peer != me, cost_s(party, even, load), party.peer))
    curves = {party.peer: _curve(party, load) for party in ordered}
    for boards in range(2, min(len(fastest), tokens) + 1):
        members = sorted(fastest[:boards], key=lambda party: party.peer)
        counts = shares(members, load, curves)
        for exchange in exchanges:
            found.append(sequence(members, counts, load, exchange, me))
    return tuple(found)


def sequence(members: Sequence[Party], counts: tuple[int, ...], load: Load, exchange: Exchange, me: PeerId) -> Option:
    """The option that these boards, in ring order, share the tokens so."""
    return Option(
        way=Way.SEQUENCE,
        boards=tuple(party.peer for party in members),
        counts=counts,
        exchange=exchange,
        codec=load.codec,
        forecast=shared(members, counts, load, exchange, me),
        assumed=any(party.assumed for party in members),
        timed=all(_timed(party, load) for party in members),
    )


def _timed(party: Party, load: Load) -> bool:
    """Whether a board's times for the load's codec, as `codec_times` gives them, mean something."""
    codecs, default = load.facts.codecs, load.facts.default_codec
    stand_in = codecs[load.codec].like(codecs[default]) and party.times.codec(codec_index(load.facts, default))
    return bool(stand_in) or party.times.codec(codec_index(load.facts, load.codec)) is not None


def _one(way: Way, party: Party, load: Load, forecast: Forecast) -> Option:
    return Option(
        way=way,
        boards=(party.peer,),
        counts=(load.facts.tokens,),
        exchange=Exchange.DIRECT,
        codec=load.codec,
        forecast=forecast,
        assumed=party.assumed,
    )


def cost_s(party: Party, tokens: float, load: Load) -> float:
    """Seconds of one block on a board that holds so many tokens of each picture, codecs included."""
    codec, own = codec_times(party.times, load), tokens * load.batch
    others = (load.facts.tokens - tokens) * load.batch
    part = party.times.at(own)
    rounds = load.facts.codecs[load.codec].rounds / load.facts.blocks
    return (part.query_s + part.attend_s + rounds * (codec.encode.at(own) + codec.decode.at(others))) * party.slower


def shares(members: Sequence[Party], load: Load, known: Mapping[PeerId, "_Curve"] | None = None) -> tuple[int, ...]:
    """Tokens of each board, so that all are through with a block at the same time; equal boards get equal shares.

    `known`: curves of the boards, where they were drawn before.
    """
    tokens, boards = load.facts.tokens, len(members)
    costs = [cost_s(party, tokens / boards, load) for party in members]
    if max(costs) <= EVEN * min(costs):
        weights = [1.0] * boards
    else:
        curves = [known[party.peer] if known else _curve(party, load) for party in members]
        low, high = 0.0, min(curve[1][-1] for curve in curves)  # in which the fastest one is through alone
        for _ in range(_STEPS):
            middle = (low + high) / 2
            enough = sum(_held(curve, middle) for curve in curves) >= tokens
            low, high = (low, middle) if enough else (middle, high)
        weights = [max(_held(curve, high), 1e-3) for curve in curves]
    return tuple(part.count for part in partition(tokens, weights))


_Curve = tuple[Sequence[float], Sequence[float]]  # tokens, seconds; both ascend


def _curve(party: Party, load: Load) -> _Curve:
    """Seconds of a block against tokens; straight between the measured points."""
    tokens = [float(point.tokens) for point in party.times.points]
    seconds: list[float] = []
    for count in tokens:
        # Where noise makes more tokens cheaper, the curve goes on level, nearly: it has to be read the other way round.
        seconds.append(max([cost_s(party, count, load), *(s * (1 + 1e-9) + 1e-12 for s in seconds[-1:])]))
    return tokens, seconds


def _held(curve: _Curve, seconds: float) -> float:
    """How many tokens a board gets through in `seconds`."""
    tokens, times = curve
    if seconds >= times[-1]:
        return tokens[-1]
    return line_through(times, tokens, seconds) if len(tokens) > 1 else tokens[0] * seconds / times[0]


def choose(
    found: Sequence[Option],
    correct: Correct,
    *,
    under_way: Mapping[PeerId, int],
    requests: int,
    usual: Key | None = None,
) -> Choice:
    """The option to take when `requests` (this one included) are to be answered at present.

    `under_way`: whole pictures that boards have been given and not answered. `usual`: the key of the last choice for
    such a request, which is kept unless another one is clearly better.
    """
    seconds = {option.key: option.forecast.latency_s * correct(option) for option in found}
    single = next(option for option in found if option.way is Way.SINGLE)
    ring = min(
        (option for option in found if option.way is Way.SEQUENCE),
        key=lambda option: (seconds[option.key], len(option.boards)),
        default=None,
    )
    wholes = [option for option in found if option.way is not Way.SEQUENCE]
    if requests > 1:
        spread = _spread(wholes, ring, seconds, correct, under_way=under_way, requests=requests)
        if spread is not None:
            return spread
    best = min(found, key=lambda option: (seconds[option.key], len(option.boards), option.way is not Way.SINGLE))
    if seconds[best.key] > WORTHWHILE * seconds[single.key]:
        best = single
    kept = next((option for option in found if option.key == usual), None)
    if kept is not None and seconds[kept.key] <= seconds[single.key] and seconds[best.key] > STAY * seconds[kept.key]:
        best = kept
    return Choice(
        option=best, latency_s=seconds[best.key], reason=_reason(best, single, ring, seconds, alone=len(found) == 1)
    )


def _spread(
    wholes: Sequence[Option],
    ring: Option | None,
    seconds: Mapping[Key, float],
    correct: Correct,
    *,
    under_way: Mapping[PeerId, int],
    requests: int,
) -> Choice | None:
    """Whole pictures on different boards, where more of them are answered per second so than by sharing each."""
    rates = sorted((1 / max(option.forecast.busy_s * correct(option), 1e-9) for option in wholes), reverse=True)
    apart = sum(rates[:requests])
    together = 0.0
    if ring is not None:
        # Requests that overlap still share each board's core and each board's link.
        each_s = max(ring.forecast.busy_s * correct(ring), ring.forecast.line_s, 1e-9)
        together = min(requests / seconds[ring.key], 1 / each_s)
    if len(wholes) < 2 or apart <= together:
        return None

    def through_s(option: Option) -> float:
        waiting = under_way.get(option.boards[0], 0)
        return seconds[option.key] + waiting * option.forecast.busy_s * correct(option)

    best = min(wholes, key=lambda option: (through_s(option), option.way is not Way.SINGLE, option.boards))
    than = f", sharing each {together:.3g}" if ring is not None else ""
    return Choice(
        option=best,
        latency_s=through_s(best),
        reason=f"{requests} requests at once: whole pictures on different boards are {apart:.3g} per second{than}",
    )


def _reason(
    best: Option,
    single: Option,
    ring: Option | None,
    seconds: Mapping[Key, float],
    *,
    alone: bool,
) -> str:
    guessed = " (some of it assumed, not measured yet)" if best.assumed else ""
    mine = f"this board alone {_ms(seconds[single.key])}"
    match best.way:
        case Way.SINGLE if ring is None:
            return "no other board can help" if alone else f"{mine}, and no other board is faster"
        case Way.SINGLE:
            assert ring is not None
            lost = f"{len(ring.boards)} boards would take {_ms(seconds[ring.key])}"
            return f"{mine}; sharing does not pay: {lost}{' (assumed)' if ring.assumed else ''}"
        case Way.ELSEWHERE:
            return f"another board alone is predicted to take {_ms(seconds[best.key])}, {mine}{guessed}"
        case _:
            codecs = {key[3] for key in seconds if key[0] is Way.SEQUENCE}
            how = f" with {best.codec} of {len(codecs)} codecs" if len(codecs) > 1 else ""
            return f"{len(best.boards)} boards{how} are predicted to take {_ms(seconds[best.key])}, {mine}{guessed}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
