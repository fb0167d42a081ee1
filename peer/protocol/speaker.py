"""What this board says: its own messages, and to whom they may go. No state beyond the roster."""

from peer.protocol.control_events import ControlEffect, SendControl
from peer.protocol.messages import ControlMessage, Hello, Peers, Ping, Profile, Removed, Rumour, TokenRotated
from peer.protocol.roster import Roster
from peer.protocol.types import MAX_ADDRESSES, Address, Lock, Member, PeerId, Status


class Speaker:
    """Builds messages in the name of the roster's own board, and sends to members that let us in."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def hello(self, *, answer: bool) -> Hello:
        me = self._roster.me
        return Hello(
            sender=me.peer,
            public_key=me.public_key,
            incarnation=me.incarnation,
            name=me.name,
            endpoint=me.endpoint,
            models=tuple(sorted(me.models)),
            answer=answer,
        )

    def ping(self, sequence: int) -> Ping:
        me = self._roster.me
        return Ping(sender=me.peer, incarnation=me.incarnation, sequence=sequence, speed=me.speed or 0.0)

    def profile(self) -> Profile | None:
        """What this board measured of itself; None before it has."""
        me = self._roster.me
        if me.profile is None:
            return None
        return Profile(sender=me.peer, incarnation=me.incarnation, profile=me.profile)

    def news(self, member: Member, status: Status) -> Rumour:
        me = self._roster.me
        return Rumour(
            sender=me.peer,
            incarnation=me.incarnation,
            about=member.peer,
            about_incarnation=member.incarnation,
            status=status,
        )

    def token(self, lock: Lock) -> TokenRotated:
        me = self._roster.me
        return TokenRotated(sender=me.peer, incarnation=me.incarnation, generation=lock.generation, token=lock.token)

    def peers(self, but: PeerId) -> Peers | None:
        """The doors of the boards that are alive, for `but`; None when there is no other."""
        me = self._roster.me
        others = [m.endpoint for m in self._roster.others(Status.ALIVE) if m.peer != but]
        doors = tuple(Address(host=place.host, port=place.port) for place in others[:MAX_ADDRESSES])
        return Peers(sender=me.peer, incarnation=me.incarnation, addresses=doors) if doors else None

    def removed(self, about: PeerId, *, revoked: bool) -> Removed:
        me = self._roster.me
        return Removed(sender=me.peer, incarnation=me.incarnation, about=about, revoked=revoked)

    def tell_all(self, message: ControlMessage, but: PeerId | None = None) -> list[ControlEffect]:
        """To every member that may hear it, suspects included."""
        return [SendControl(to=m, message=message) for m in self._roster.listeners() if m.peer != but]

    def to(self, peer: PeerId, message: ControlMessage) -> list[ControlEffect]:
        member = self._roster.get(peer)
        closed = peer in self._roster.joining or peer in self._roster.strangers
        return [] if member is None or closed else [SendControl(to=member, message=message)]

    def name(self, peer: PeerId) -> str:
        member = self._roster.get(peer)
        return member.name if member else peer
