"""What `peerctl plan` tells: every way to run a request with its forecast, and which one would be taken. Pure."""

from collections.abc import Mapping, Sequence

from peer.codec_wish import wanted_codecs
from peer.errors import Refused
from peer.protocol.course import planned
from peer.protocol.experience import Case, Experience, Lesson
from peer.protocol.forecast import elsewhere_s, whole_s
from peer.protocol.outlook import Bustle, Link, Outlook, Situation, Ways, Wish
from peer.protocol.planner import Option, Way
from peer.protocol.types import MAX_BATCH, Exchange, ModelFacts, PeerId, View
from peer.reports import MAX_REQUESTS, PlanBoardReport, PlanQuery, PlanReport, PlanRowReport

_EXCHANGES = {"direct": Exchange.DIRECT, "ring": Exchange.RING}


def plan_report(
    query: PlanQuery,
    facts: ModelFacts,
    view: View,
    *,
    links: Mapping[PeerId, Link],
    lessons: Mapping[Case, Lesson],
    now: float,
) -> PlanReport:
    """The plan as this board would make it now. Raises Refused for a codec or an exchange that there is not."""
    exchange = query.exchange or "direct"
    codec, *others = wanted_codecs(facts, query.codec, query.within)
    if exchange not in _EXCHANGES:
        raise Refused(f"no exchange {exchange}; choose direct or ring")
    if not 1 <= query.batch <= MAX_BATCH or not 1 <= query.requests <= MAX_REQUESTS:
        raise Refused(f"plan for 1 to {MAX_BATCH} images in one request, and 1 to {MAX_REQUESTS} requests")
    if query.input_bytes is not None and query.input_bytes < 1:
        raise Refused("an input has at least one byte")
    outlook = Outlook(Experience(lessons), lambda: links)

    def situation(wanted: str, others: Sequence[str] = ()) -> Situation:
        wish = Wish(
            codec=wanted,
            others=tuple(others),
            within=query.within,
            exchanges=(_EXCHANGES[exchange],),
            batch=query.batch,
            file_bytes=query.input_bytes,
        )
        return Situation(view=view, facts=facts, wish=wish, bustle=Bustle(requests=query.requests), now=now)

    at = situation(codec, others)
    taken, ways = planned(at, outlook), outlook.ways(at)
    chosen = taken.option or ways.found[0]
    rows = [_row(option, at, outlook) for option in ways.found]
    # The other codecs differ from the first one where tokens are shared, and nowhere else.
    for other in (situation(other) for other in facts.codecs if other != codec and not ways.cold):
        rows += [_row(option, other, outlook) for option in outlook.ways(other).found if option.way is Way.SEQUENCE]
    return PlanReport(
        model=facts.name,
        model_id=facts.model,
        default_codec=facts.default_codec,
        choice=_row(chosen, at, outlook),
        reason=taken.reason,
        settings=() if ways.cold else tuple(rows),
        boards=_boards(ways, at, links),
    )


def _row(option: Option, at: Situation, outlook: Outlook) -> PlanRowReport:
    view, facts = at.view, at.facts
    shared = option.way is Way.SEQUENCE
    busy_s = max(option.forecast.busy_s * outlook.factor(option, at), option.forecast.line_s)
    mine = view.members[view.self_id].profile
    times = mine.times(facts.model) if mine else None
    known = times is not None and times.codec(list(facts.codecs).index(option.codec)) is not None
    return PlanRowReport(
        boards=len(option.boards),
        mode="sequence" if shared else "single",
        names=tuple(view.members[peer].name for peer in option.boards),
        tokens=option.counts,
        codec=option.codec if shared else None,
        exchange=option.exchange.name.lower() if shared else None,
        predicted_ms=outlook.predicted_s(option, at) * 1e3,
        per_s=1 / busy_s if busy_s else 0.0,
        measured=not option.assumed and (known or not shared),
    )


def _boards(ways: Ways, at: Situation, links: Mapping[PeerId, Link]) -> tuple[PlanBoardReport, ...]:
    view, load = at.view, at.load
    me = next((party for party in ways.parties if party.peer == view.self_id), None)
    found = []
    for party in ways.parties:
        member, link = view.members[party.peer], links.get(party.peer)
        mine = me is None or party.peer == me.peer
        seconds = whole_s(party, load) if mine or me is None else elsewhere_s(me, party, load)
        known = link is not None or (member.profile is not None and member.profile.rate is not None)
        found.append(
            PlanBoardReport(
                id=party.peer,
                name=member.name,
                measured=not party.assumed,
                alone_ms=seconds * 1e3,
                slower=party.slower,
                link_mbit=party.rate * 8e-6 if known else None,
                rtt_ms=None if mine else party.reach_s * 2e3,
                reason="",
            )
        )
    return (*found, *_excluded(ways.excluded, view))


def _excluded(excluded: Mapping[PeerId, str], view: View) -> Sequence[PlanBoardReport]:
    return [
        PlanBoardReport(
            id=peer,
            name=view.members[peer].name,
            measured=False,
            alone_ms=None,
            slower=None,
            link_mbit=None,
            rtt_ms=None,
            reason=why,
        )
        for peer, why in sorted(excluded.items())
    ]
