"""What this board says: its own messages, and to whom they may go. No state beyond the roster."""

from peer.protocol.control_events import ControlEffect, SendControl
from peer.protocol.messages import ControlMessage, Hello, Ping, Rumour, TokenRotated
from peer.protocol.roster import Roster
from peer.protocol.types import Lock, Member, PeerId, Status


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

    def tell_all(self, message: ControlMessage, but: PeerId | None = None) -> list[ControlEffect]:
        """To every member that may hear it, suspects included."""
        listeners = self._roster.others(Status.ALIVE, Status.SUSPECT, Status.INCOMPATIBLE)
        return [
            SendControl(to=m, message=message)
            for m in listeners
            if m.peer != but and m.peer not in self._roster.joining
        ]

    def to(self, peer: PeerId, message: ControlMessage) -> list[ControlEffect]:
        member = self._roster.get(peer)
        return [] if member is None or peer in self._roster.joining else [SendControl(to=member, message=message)]

    def name(self, peer: PeerId) -> str:
        member = self._roster.get(peer)
        return member.name if member else peer
