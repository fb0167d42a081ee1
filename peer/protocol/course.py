"""How a request begins: which boards, which tokens, what it will take and why. Everything a person fixed is kept.

What nobody fixed is the planner's. No state; the outlook remembers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from peer.errors import NotEnoughBoards, Refused, RequestError
from peer.protocol import ring
from peer.protocol.events import Mode, Submission
from peer.protocol.outlook import Outlook, Situation, Ways, Wish, allowed, alternatives, forced
from peer.protocol.partition import partition
from peer.protocol.planner import Option, Way
from peer.protocol.shares import weights, worthwhile
from peer.protocol.types import Member, ModelFacts, PeerId, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How one request is run. `option` is what a forecast was made of; None where nothing could be predicted."""

    way: Way
    boards: tuple[PeerId, ...]  # in ring order
    counts: tuple[int, ...]  # tokens of each
    codec: str
    reason: str
    option: Option | None
    predicted_s: float | None
    slow: tuple[PeerId, ...] = ()  # alive, and left out


def course(wanted: Submission, at: Situation, outlook: Outlook) -> Course | RequestError:
    """How to run the request, or why it cannot be."""
    view, facts = at.view, at.facts
    alive = view.alive(wanted.model)
    problem = _problem(wanted, facts, alive)
    if problem is not None:
        return problem
    free = wanted.boards is None and wanted.shares is None
    if wanted.mode is Mode.SINGLE or (wanted.boards == 1 and wanted.mode is Mode.AUTO):
        return _single(at, outlook, "asked for one board")
    if wanted.mode is Mode.AUTO and free:
        # The first of many comes alone, and is not to be run as if it stayed alone.
        return planned(replace(at, bustle=at.bustle.announced(wanted.requests)), outlook)
    kept, slow = _worthwhile(alive, at.bustle.absent, view.self_id) if free else (alive, ())
    boards = min(wanted.boards or len(kept), facts.tokens)
    if wanted.shares is not None and len(wanted.shares) != boards:
        return Refused(f"{len(wanted.shares)} shares were given for {boards} boards; give one per board")
    if boards == 1 and wanted.mode is Mode.AUTO:
        return _single(at, outlook, "no other board could help", slow)
    chosen = ring.chosen(kept, view.self_id, boards)
    try:
        ranges = partition(facts.tokens, wanted.shares or weights([view.members[peer].speed for peer in chosen]))
    except ValueError as problem:
        return Refused(f"{problem}; ask for other shares")
    counts = tuple(part.count for part in ranges)
    codec, option = _forced(_everybody(at), outlook, chosen, counts)
    if codec is None:
        return Refused(
            f"no codec that loses {wanted.within:g} points or less on {boards} boards can be used; allow more"
        )
    return Course(
        way=Way.SEQUENCE,
        boards=chosen,
        counts=counts,
        codec=codec,
        reason=_asked(wanted, counts, slow, view),
        option=option,
        predicted_s=None if option is None else outlook.predicted_s(option, at),
        slow=slow,
    )


def wish_of(wanted: Submission) -> Wish:
    """The kind of request that a submission is."""
    file_bytes = None if wanted.file is None else len(wanted.file)
    return Wish(
        codec=wanted.codec,
        others=wanted.others,
        within=wanted.within,
        exchanges=(wanted.exchange,),
        batch=wanted.batch,
        file_bytes=file_bytes,
    )


def planned(at: Situation, outlook: Outlook) -> Course:
    """What the planner makes of a request that leaves everything to it."""
    ways = outlook.ways(at)
    if ways.cold:
        return _single(at, outlook, "this board has measured nothing yet: alone for now")
    choice = outlook.choose(ways, at)
    return Course(
        way=choice.option.way,
        boards=choice.option.boards,
        counts=choice.option.counts,
        codec=choice.option.codec,
        reason=choice.reason + _without(ways, at.view),
        option=choice.option,
        predicted_s=choice.latency_s,
    )


def _forced(
    at: Situation, outlook: Outlook, boards: tuple[PeerId, ...], counts: tuple[int, ...]
) -> tuple[str | None, Option | None]:
    """The fastest codec that would do for a division that somebody has fixed; None where none does.

    Of codecs that not all boards have measured the first one is taken.
    """
    kinds = [each for each in alternatives(at) if allowed(each.wish.codec, counts, at)]
    if not kinds:
        return None, None
    known = [option for each in kinds if (option := forced(outlook.ways(each), each, boards, counts)) is not None]
    if not known:
        return kinds[0].wish.codec, None
    timed = [option for option in known if option.timed]
    best = min(timed or known[:1], key=lambda option: outlook.predicted_s(option, at))
    return best.codec, best


def _everybody(at: Situation) -> Situation:
    """For what a person has fixed: silent boards are asked all the same."""
    return replace(at, bustle=replace(at.bustle, absent=frozenset()))


def _problem(wanted: Submission, facts: ModelFacts, alive: Sequence[Member]) -> RequestError | None:
    if wanted.boards is not None and wanted.boards > len(alive):
        names = ", ".join(member.name for member in alive)
        return NotEnoughBoards(
            f"{wanted.boards} boards were asked for and {len(alive)} can serve {facts.name} ({names}); "
            "ask for fewer, or see who is missing with: peerctl members"
        )
    if wanted.boards is not None and wanted.boards < 1:
        return Refused(f"{wanted.boards} boards cannot run a model; ask for 1 or more")
    unknown = next((codec for codec in (wanted.codec, *wanted.others) if codec not in facts.codecs), None)
    if unknown is not None:
        return Refused(f"model {facts.name} has no codec {unknown}")
    return None


def _worthwhile(
    alive: Sequence[Member], absent: frozenset[PeerId], me: PeerId
) -> tuple[tuple[Member, ...], tuple[PeerId, ...]]:
    """Boards that make a shared request faster by taking part, and the others. The asked one always does."""
    fast = worthwhile([member.speed for member in alive])
    keep = ((f and m.peer not in absent) or m.peer == me for m, f in zip(alive, fast, strict=True))
    kept = tuple(member for member, kept in zip(alive, keep, strict=True) if kept)
    return kept, tuple(member.peer for member in alive if member not in kept)


def _single(at: Situation, outlook: Outlook, reason: str, slow: tuple[PeerId, ...] = ()) -> Course:
    ways = outlook.ways(_everybody(at))
    option = next(option for option in ways.found if option.way is Way.SINGLE)
    return Course(
        way=Way.SINGLE,
        boards=(at.view.self_id,),
        counts=(at.facts.tokens,),
        codec=at.wish.codec,
        reason=reason + _left_out(slow, at.view),
        option=None if ways.cold else option,
        predicted_s=None if ways.cold else outlook.predicted_s(option, at),
        slow=slow,
    )


def _asked(wanted: Submission, counts: Sequence[int], slow: tuple[PeerId, ...], view: View) -> str:
    who = f"{wanted.boards} boards asked for" if wanted.boards else "every board that is alive and holds the model"
    even = max(counts) - min(counts) <= 1
    how = "shares as asked" if wanted.shares else "even shares" if even else "shares by measured speed"
    return f"{who}{_left_out(slow, view)}, {how}"


def _left_out(slow: tuple[PeerId, ...], view: View) -> str:
    names = ", ".join(view.members[peer].name for peer in slow)
    return f"; without {names}, too slow of late" if slow else ""


def _without(ways: Ways, view: View) -> str:
    """The boards that the planner could not count on, and why."""
    return "".join(f"; without {view.members[peer].name}: {why}" for peer, why in sorted(ways.excluded.items()))
