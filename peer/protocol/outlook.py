"""From what a board knows - the view, its links, its experience - to a plan for a request.

Ways and their forecasts are worked out once for a view and a kind of request, and kept; what experience and the present
load make of them is looked at for every request.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from peer.protocol.experience import Case, Experience
from peer.protocol.forecast import NARROW, Forecast, Load, Party, mean_block_s, quoted_tokens
from peer.protocol.planner import Choice, Key, Option, Way, choose, options, sequence
from peer.protocol.types import MAX_BODY_BYTES, Exchange, Member, ModelFacts, ModelId, PeerId, View

ASSUMED_RATE = 12.5e6  # bytes per second: 100 Mbit/s, until a link was measured
ASSUMED_REACH_S = 0.5e-3
_KEPT = 512
_FAR_OFF, _SLACK_S = 2.0, 0.02  # a way that takes so many times longer than foreseen, or shorter, has changed
_FINENESS = 1.2  # inputs whose sizes differ by less are of one kind


@dataclass(frozen=True, slots=True)
class Link:
    """What was measured of the way to one board and back."""

    rtt_s: float
    rate: float | None = None  # bytes per second


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A kind of request: what is asked for, and how much there is of it."""

    codec: str
    others: tuple[str, ...] = ()  # codecs that would do as well, if one of them is faster
    within: float | None = None  # percentage points of accuracy that codes may cost
    exchanges: tuple[Exchange, ...]
    batch: int
    file_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bustle:
    """What the asked board has to do at present."""

    requests: int = 1  # not answered, the one in question and what others have asked of it included
    under_way: Mapping[PeerId, int] = field(default_factory=dict)  # whole pictures that boards have been given
    absent: frozenset[PeerId] = frozenset()  # boards that were silent just before

    def announced(self, requests: int) -> "Bustle":
        """With so many requests at once as their asker means to send, if those are more."""
        return replace(self, requests=max(self.requests, requests))


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a plan depends on, besides what was learnt."""

    view: View
    facts: ModelFacts
    wish: Wish
    bustle: Bustle
    now: float

    @property
    def load(self) -> Load:
        wish = self.wish
        return Load(facts=self.facts, codec=wish.codec, batch=wish.batch, file_bytes=wish.file_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """All options for a kind of request, and the boards that are not among them, each with the reason."""

    found: tuple[Option, ...]
    parties: tuple[Party, ...]
    excluded: Mapping[PeerId, str]
    cold: bool  # this board has not measured itself yet: there is nothing to compare


_Key = tuple[ModelId, Wish, int, frozenset[PeerId]]  # the model, what is asked, how large, who is absent


@dataclass(slots=True)
class _Known:
    view: View
    links: Mapping[PeerId, Link]
    ways: OrderedDict[_Key, Ways] = field(default_factory=OrderedDict)


class Outlook:
    """Plans of one board. Deterministic: no clock, no randomness."""

    def __init__(self, experience: Experience, links: Callable[[], Mapping[PeerId, Link]]) -> None:
        self.experience = experience
        self._links = links
        self._known = _Known(View(self_id=PeerId("")), {})
        self._usual: dict[tuple[ModelId, tuple[str, ...], int], Key] = {}
        self._doubted: set[PeerId] = set()

    def ways(self, at: Situation) -> Ways:
        """Every option for such a request, without the boards that had better not be waited for."""
        links, view = self._links(), at.view
        if self._known.view is not view or self._known.links != links:
            self._known = _Known(view, links)
        kind = replace(at.wish, file_bytes=None, others=(), within=None)
        key = (at.facts.model, kind, _bucket(at.wish.file_bytes), at.bustle.absent)
        kept = self._known.ways.get(key)
        if kept is None:
            kept = self._known.ways[key] = _ways(at, links)
            while len(self._known.ways) > _KEPT:
                self._known.ways.popitem(last=False)
        return kept

    def narrow(self, view: View, peer: PeerId) -> bool:
        """Whether the way to a board is so slow that packing its part of the input pays."""
        links = self._links()
        return min(_rate(view.members[each], links.get(peer)) for each in (view.self_id, peer)) <= NARROW

    def choose(self, ways: Ways, at: Situation) -> Choice:
        """The option to take, and why. The next request of the kind changes ways only for a clear gain."""
        usual = (at.facts.model, (at.wish.codec, *at.wish.others), at.wish.batch)
        found = [
            option
            for option in ways.found
            if option.way is not Way.SEQUENCE or allowed(option.codec, option.counts, at)
        ]
        # Other codecs differ from the first one where tokens are shared, and nowhere else.
        for each in alternatives(at)[1:]:
            shared = (option for option in self.ways(each).found if option.way is Way.SEQUENCE)
            found += [option for option in shared if option.timed and allowed(option.codec, option.counts, at)]
        choice = choose(
            found,
            lambda option: self.factor(option, at),
            under_way=at.bustle.under_way,
            requests=at.bustle.requests,
            usual=self._usual.get(usual),
        )
        if at.bustle.requests <= 1:
            self._usual[usual] = choice.option.key
        return choice

    def factor(self, option: Option, at: Situation) -> float:
        """What an option's forecast is to be multiplied with."""
        return self.experience.factor(case(option, at.facts.model), option.forecast.latency_s, at.now)

    def predicted_s(self, option: Option, at: Situation) -> float:
        """An option's forecast, corrected."""
        return option.forecast.latency_s * self.factor(option, at)

    def travelled(self, option: Option, measured_s: float, me: PeerId) -> None:
        """Besides computing, a request took so long: where that was not foreseen, the links are not as we think."""
        foreseen_s = option.forecast.latency_s - option.forecast.busy_s
        if not foreseen_s / _FAR_OFF - _SLACK_S <= measured_s <= foreseen_s * _FAR_OFF + _SLACK_S:
            self._doubted |= set(option.boards) - {me}

    def take_doubted(self) -> frozenset[PeerId]:
        """Boards whose links had better be measured anew; each is told once."""
        doubted, self._doubted = frozenset(self._doubted), set()
        return doubted

    def keep(self, models: frozenset[ModelId]) -> None:
        """Forget all other models."""
        self.experience.keep(models)
        self._usual = {key: way for key, way in self._usual.items() if key[0] in models}


def allowed(name: str, counts: Sequence[int], at: Situation) -> bool:
    """Whether a codec loses no more than is allowed on boards with so many tokens each, and its codes can travel."""
    if at.wish.within is None:
        return True
    codec = at.facts.codecs[name]
    lost = codec.loses(len(counts))
    most = max(codec.payload_bytes(block=b, tokens=max(counts), batch=at.wish.batch) for b in range(at.facts.blocks))
    return lost is not None and lost <= at.wish.within and most <= MAX_BODY_BYTES


def alternatives(at: Situation) -> tuple[Situation, ...]:
    """The same with each of the codecs that would do, the first one first."""
    return tuple(
        replace(at, wish=replace(at.wish, codec=codec, others=())) for codec in (at.wish.codec, *at.wish.others)
    )


def case(option: Option, model: ModelId) -> Case:
    """What experience with an option is filed under."""
    match option.way:
        case Way.SEQUENCE:
            return Case(model, option.codec, len(option.boards))
        case Way.ELSEWHERE:
            return Case(model, option.boards[0], 1)
        case _:
            return Case(model, "", 1)


def forced(ways: Ways, at: Situation, boards: Sequence[PeerId], counts: tuple[int, ...]) -> Option | None:
    """The option that somebody else has chosen; None where a board of it is not known well enough."""
    by_peer = {party.peer: party for party in ways.parties}
    if ways.cold or not all(peer in by_peer for peer in boards):
        return None
    members = [by_peer[peer] for peer in boards]
    return sequence(members, counts, at.load, at.wish.exchanges[0], at.view.self_id)


def _ways(at: Situation, links: Mapping[PeerId, Link]) -> Ways:
    parties, excluded, cold = parties_of(at, links)
    me = at.view.self_id
    if cold:
        return Ways(found=(_unknown(me, at.load),), parties=(), excluded=excluded, cold=True)
    found = options(at.load, parties, me, at.wish.exchanges)
    return Ways(found=found, parties=parties, excluded=excluded, cold=False)


def _unknown(me: PeerId, load: Load) -> Option:
    """This board alone, about which nothing is known."""
    nothing = Forecast(latency_s=0.0, busy_s=0.0, round_s=0.0, wait_s=0.0)
    return Option(
        way=Way.SINGLE,
        boards=(me,),
        counts=(load.facts.tokens,),
        exchange=Exchange.DIRECT,
        codec=load.codec,
        forecast=nothing,
        assumed=True,
    )


def parties_of(at: Situation, links: Mapping[PeerId, Link]) -> tuple[tuple[Party, ...], dict[PeerId, str], bool]:
    """The boards that could take part, why others cannot, and whether this board does not know itself yet."""
    view, facts = at.view, at.facts
    me = view.members[view.self_id]
    mine = me.profile.times(facts.model) if me.profile else None
    parties, excluded = [], {}
    for member in view.alive(facts.model):
        asked = member.peer == view.self_id
        obstacle = None if asked else _obstacle(member, at)
        if obstacle is not None:
            excluded[member.peer] = obstacle
            continue
        told = member.profile.times(facts.model) if member.profile else None
        times = told or mine
        if times is None:
            excluded[member.peer] = "has not measured itself yet"
            continue
        link = None if asked else links.get(member.peer)
        quiet = quoted_tokens(facts) / max(mean_block_s(times, facts, quoted_tokens(facts)), 1e-9)
        # The speed that a board quotes is that of the model it measures at start; for another one it says nothing.
        quoted = told is not None and member.profile is not None and member.profile.models[0].model == facts.model
        parties.append(
            Party(
                peer=member.peer,
                times=times,
                slower=quiet / member.speed if quoted and member.speed else 1.0,
                rate=_rate(member, link),
                reach_s=0.0 if asked else _reach_s(member, link),
                assumed=told is None,
            )
        )
    return tuple(parties), excluded, mine is None


def _obstacle(member: Member, at: Situation) -> str | None:
    """Why a board is not asked to help, or None."""
    facts = at.facts
    if member.peer in at.bustle.absent:
        return "was silent in a request just before"
    free = member.profile.free_bytes if member.profile else None
    if free is None or member.profile is None:
        return None
    # Loaded models are paid for; what a request needs besides is its activations.
    loaded = member.profile.times(facts.model) is not None
    needed = working_bytes(facts, at.wish.batch) + (0 if loaded else facts.size_bytes)
    if free < needed:
        return f"has {free >> 20} MiB of memory free, {max(1, needed >> 20)} MiB are needed"
    return None


def working_bytes(facts: ModelFacts, batch: int) -> int:
    """An upper bound of what one request's tensors take: keys, values, and an MLP four times as wide, all as f32."""
    return batch * (facts.tokens + 1) * facts.width * 4 * 12


def _rate(member: Member, link: Link | None) -> float:
    told = member.profile.rate if member.profile else None
    seen = link.rate if link else None
    return told or seen or ASSUMED_RATE


def _reach_s(member: Member, link: Link | None) -> float:
    if link is not None:
        return link.rtt_s / 2
    return ASSUMED_REACH_S if member.rtt_s is None else min(member.rtt_s / 2, 20 * ASSUMED_REACH_S)


def _bucket(size: int | None) -> int:
    """Inputs of nearly one size fall into one bucket."""
    bucket, value = 0, 1.0
    while size and value < size:
        bucket, value = bucket + 1, value * _FINENESS
    return bucket
