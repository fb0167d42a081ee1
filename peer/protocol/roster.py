"""Every board this one knows: its public record, its key, and the rule by which news about it is merged.

News is (status, incarnation) about a board. Which news counts, after SWIM and memberlist:

    news                      known                            result
    its own Hello             older or the same incarnation    alive (or incompatible)
    its own Hello             newer incarnation                dropped: an old packet
    alive, higher incarnation any but left                     alive
    suspect, same or higher   alive                            suspect
    suspect, same             suspect                          one more accuser
    suspect or dead, lower    alive                            dropped, and the teller hears what is newer
    dead, same or higher      alive, suspect                   dead
    its own Goodbye           same incarnation                 left
    anything else                                              dropped

Only a board itself brings in another start of it: news about a start that nobody has met here is dropped as well.
"""

import math
from dataclasses import replace

from peer.protocol.messages import Hello, Stranger
from peer.protocol.types import Endpoint, Incarnation, Member, ModelId, PeerId, Status, View

MAX_MEMBERS = 256  # strangers cannot make the list grow without end
_STEPS = 4  # of a factor of two in speed: a change of a fifth is one
GONE = (Status.DEAD, Status.LEFT, Status.INCOMPATIBLE, Status.REFUSED)


class Roster:
    """Members by id, this board included. Bounded."""

    def __init__(self, me: Member, now: float) -> None:
        self._self_id = me.peer
        self._members: dict[PeerId, Member] = {me.peer: replace(me, since_s=now)}
        self.revision = 0  # grows when something changes that others must be told of
        self.key_revision = 0  # grows when other keys are admitted
        self.joining: set[PeerId] = set()  # said Hello at our door; not yet heard under its own key
        self.strangers: set[PeerId] = set()  # speak another version: listed, never talked to

    def __len__(self) -> int:
        return len(self._members)

    @property
    def me(self) -> Member:
        return self._members[self._self_id]

    def get(self, peer: PeerId) -> Member | None:
        return self._members.get(peer)

    def others(self, *statuses: Status) -> list[Member]:
        """Other boards in one of `statuses`, in order of id."""
        return [m for _, m in sorted(self._members.items()) if m.peer != self._self_id and m.status in statuses]

    def listeners(self) -> list[Member]:
        """Other boards that may be talked to: those that let us in and are not known to be gone, in order of id."""
        here = self.others(Status.ALIVE, Status.SUSPECT, Status.INCOMPATIBLE)
        return [m for m in here if m.peer not in self.joining and m.peer not in self.strangers]

    def view(self) -> View:
        return View(self_id=self._self_id, members=dict(self._members))

    def _put(self, member: Member) -> None:
        """The one place where a record is replaced."""
        old = self._members.get(member.peer)
        self._members[member.peer] = member
        if old is None or _facts(old) != _facts(member):
            self.revision += 1
        if old is None or _admission(old) != _admission(member):
            self.key_revision += 1

    def keys(self) -> frozenset[bytes]:
        """Public keys of the boards that were admitted."""
        admitted = (m for m in self._members.values() if m.status is not Status.REFUSED and m.peer != self._self_id)
        return frozenset(member.public_key for member in admitted if any(member.public_key))

    def update(self, peer: PeerId, **fields: object) -> Member:
        """Replace fields of a record, this board's own included."""
        member = replace(self._members[peer], **fields)  # type: ignore[arg-type]  # names checked by replace
        self._put(member)
        return member

    def mark(self, peer: PeerId, status: Status, reason: str, now: float) -> None:
        """Another status; the time since then starts anew only when it is another."""
        member = self._members[peer]
        since_s = member.since_s if member.status is status else now
        self._put(replace(member, status=status, reason=reason, since_s=since_s))

    def remember(self, member: Member, now: float) -> bool:
        """A board known from an earlier run: admitted, and dead until it is heard. False when it is not listed."""
        if member.peer in self._members or len(self._members) > MAX_MEMBERS:
            return False
        self._put(replace(member, status=Status.DEAD, since_s=now))
        return True

    def enter(self, hello: Hello, source: str, status: Status, reason: str, *, proven: bool, now: float) -> None:
        """A board's word about itself, `proven` under its own key. The caller has checked incarnation and room."""
        known = self._members.get(hello.sender)
        same = known is not None and known.status is status
        self.strangers.discard(hello.sender)
        self._put(
            Member(
                peer=hello.sender,
                name=hello.name,
                endpoint=replace(hello.endpoint, host=hello.endpoint.host or source),
                public_key=hello.public_key,
                incarnation=hello.incarnation,
                status=status,
                reason=reason,
                models=frozenset(hello.models),
                rtt_s=known.rtt_s if known else None,
                speed=known.speed if known else None,
                profile=known.profile if known else None,
                since_s=known.since_s if known is not None and same else now,
                proven=proven,
            )
        )

    def enter_stranger(self, message: Stranger, now: float) -> None:
        """A board of another protocol version: listed with the reason, never talked to."""
        known = self._members.get(message.sender)
        keep = known is not None and known.status is Status.INCOMPATIBLE
        self.joining.discard(message.sender)
        self.strangers.add(message.sender)
        self._put(
            Member(
                peer=message.sender,
                name=message.name,
                endpoint=known.endpoint if known else Endpoint(host="", port=1),
                public_key=known.public_key if known else bytes(32),
                incarnation=known.incarnation if known else Incarnation(0),
                status=Status.INCOMPATIBLE,
                reason=f"speaks protocol {message.version}; install the same release of tokenring on both boards",
                since_s=known.since_s if known is not None and keep else now,
                proven=known is not None and known.proven,
            )
        )

    def drop(self, peer: PeerId) -> None:
        if peer != self._self_id and self._members.pop(peer, None) is not None:
            self.revision += 1
            self.key_revision += 1
            self.joining.discard(peer)
            self.strangers.discard(peer)

    def room_for(self, peer: PeerId) -> bool:
        """Whether `peer` can be listed, perhaps in the place of one that is gone."""
        return peer in self._members or len(self._members) <= MAX_MEMBERS or bool(self.others(*GONE))

    def standing(self, models: frozenset[ModelId]) -> tuple[Status, str]:
        """What a board is that answers and holds `models`, and why."""
        mine = self.me.models
        if not mine or not models or mine & models:
            return Status.ALIVE, ""

        def short(names: frozenset[ModelId]) -> str:
            return ",".join(sorted(name[:12] for name in names))

        return (
            Status.INCOMPATIBLE,
            f"holds models {short(models)}, this board {short(mine)}; give both the same model folder",
        )

    def check(self) -> None:
        """Invariants, for tests."""
        assert self.me.status is Status.ALIVE
        assert len(self._members) <= MAX_MEMBERS + 1
        assert all(key == member.peer for key, member in self._members.items())
        for member in self._members.values():
            assert member.status is not Status.ALIVE or self.standing(member.models)[0] is Status.ALIVE
        assert all(self._members[peer].status is Status.SUSPECT for peer in self.joining)
        assert all(self._members[peer].status in (Status.INCOMPATIBLE, Status.DEAD) for peer in self.strangers)


def _facts(member: Member) -> tuple[object, ...]:
    """What the rest of the daemon must be told of when it changes; of speeds, what would change a share."""
    pace = round(_STEPS * math.log2(member.speed)) if member.speed else None
    return member.status, member.incarnation, member.endpoint, member.models, member.name, pace, member.profile


def _admission(member: Member) -> tuple[bytes, bool]:
    """What decides whether its key is let in."""
    return member.public_key, member.status is Status.REFUSED


def oldest_gone(roster: Roster) -> PeerId | None:
    """Of a full list, who is gone for longest; None while there is room."""
    gone = roster.others(*GONE) if len(roster) > MAX_MEMBERS else []
    return min(gone, key=lambda member: member.since_s).peer if gone else None
