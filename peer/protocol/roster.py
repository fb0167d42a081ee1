"""Every board this one knows: its public record, its key, and the rule by which news about it is merged.

News is (status, incarnation) about a board. Which news counts, after SWIM and memberlist:

    news                      known                            result
    its own Hello             older or the same incarnation    alive (or incompatible)
    its own Hello             newer incarnation                dropped: an old packet
    alive, higher incarnation any but left                     alive
    suspect, same or higher   alive                            suspect
    suspect, same             suspect                          one more accuser
    dead, same or higher      alive, suspect                   dead
    its own Goodbye           same incarnation                 left
    anything else                                              dropped
"""

from dataclasses import replace

from peer.protocol.messages import Hello, Stranger
from peer.protocol.types import Endpoint, Incarnation, Member, ModelId, PeerId, Status, View

MAX_MEMBERS = 256  # strangers cannot make the list grow without end
GONE = (Status.DEAD, Status.LEFT, Status.INCOMPATIBLE, Status.REFUSED)


class Roster:
    """Members by id, this board included. Bounded."""

    def __init__(self, me: Member, now: float) -> None:
        self._self_id = me.peer
        self._members: dict[PeerId, Member] = {me.peer: replace(me, since_s=now)}
        self.joining: set[PeerId] = set()  # said Hello at our door; not yet known to have let us in

    @property
    def me(self) -> Member:
        return self._members[self._self_id]

    def get(self, peer: PeerId) -> Member | None:
        return self._members.get(peer)

    def others(self, *statuses: Status) -> list[Member]:
        """Other boards in one of `statuses`, in order of id."""
        return [m for _, m in sorted(self._members.items()) if m.peer != self._self_id and m.status in statuses]

    def view(self) -> View:
        return View(self_id=self._self_id, members=dict(self._members))

    def facts(self) -> dict[PeerId, tuple[object, ...]]:
        """What others must be told of when it changes; round trips and speeds are not among it."""
        return {m.peer: (m.status, m.incarnation, m.endpoint, m.models, m.name) for m in self._members.values()}

    def keys(self) -> frozenset[bytes]:
        """Public keys of the boards that were admitted."""
        admitted = (m for m in self._members.values() if m.status is not Status.REFUSED and m.peer != self._self_id)
        return frozenset(member.public_key for member in admitted if any(member.public_key))

    def update(self, peer: PeerId, **fields: object) -> Member:
        """Replace fields of a record, this board's own included."""
        member = replace(self._members[peer], **fields)  # type: ignore[arg-type]  # names checked by replace
        self._members[peer] = member
        return member

    def mark(self, peer: PeerId, status: Status, reason: str, now: float) -> None:
        """Another status; the time since then starts anew only when it is another."""
        member = self._members[peer]
        since_s = member.since_s if member.status is status else now
        self._members[peer] = replace(member, status=status, reason=reason, since_s=since_s)

    def remember(self, member: Member) -> None:
        """A board known from an earlier run: admitted, and dead until it is heard."""
        if member.peer != self._self_id and len(self._members) <= MAX_MEMBERS:
            self._members.setdefault(member.peer, member)

    def enter(self, hello: Hello, source: str, status: Status, reason: str, now: float) -> None:
        """A board's own word about itself. The caller has checked incarnation and room."""
        known = self._members.get(hello.sender)
        same = known is not None and known.status is status
        self._members[hello.sender] = Member(
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
            since_s=known.since_s if known is not None and same else now,
        )

    def enter_stranger(self, message: Stranger, now: float) -> None:
        """A board of another protocol version: listed with the reason, never talked to."""
        known = self._members.get(message.sender)
        keep = known is not None and known.status is Status.INCOMPATIBLE
        self._members[message.sender] = Member(
            peer=message.sender,
            name=message.name,
            endpoint=known.endpoint if known else Endpoint(host="", port=1),
            public_key=known.public_key if known else bytes(32),
            incarnation=known.incarnation if known else Incarnation(0),
            status=Status.INCOMPATIBLE,
            reason=f"speaks protocol {message.version}; install the same release of tokenring on both boards",
            since_s=known.since_s if known is not None and keep else now,
        )

    def drop(self, peer: PeerId) -> None:
        if peer != self._self_id:
            self._members.pop(peer, None)
            self.joining.discard(peer)

    def room_for(self, peer: PeerId) -> bool:
        """Whether `peer` can be listed; of a full list, whoever is gone for longest makes room."""
        if peer in self._members or len(self._members) <= MAX_MEMBERS:
            return True
        gone = self.others(*GONE)
        if not gone:
            return False
        self.drop(min(gone, key=lambda member: member.since_s).peer)
        return True

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
        for member in self._members.values():
            assert member.status is not Status.ALIVE or self.standing(member.models)[0] is Status.ALIVE
