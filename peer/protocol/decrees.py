"""What a person decided at one board and all are to follow: the cluster's token, and whose key is refused for good.

Decrees are told to everybody at once, passed on by whoever hears them first, and repeated to a member at random from
time to time, so that a board that missed one gets it from anybody.
"""

from peer.protocol.control_events import AdoptToken, ControlEffect, SendControl
from peer.protocol.messages import TokenRotated
from peer.protocol.probing import Chance
from peer.protocol.speaker import Speaker
from peer.protocol.types import Lock, Member, PeerId

MAX_REVOKED = 1024
_REPEATED = 2  # newest revocations that are repeated at a time, and as many others


class Decrees:
    """The token in force and the revoked keys of one board. Bounded."""

    def __init__(self, *, lock: Lock | None, revoked: tuple[PeerId, ...] = (), speaker: Speaker, rng: Chance) -> None:
        self._lock = lock
        self._say = speaker
        self._rng = rng
        self._revoked: dict[PeerId, None] = dict.fromkeys(revoked[-MAX_REVOKED:])

    def change_token(self, token: bytes) -> list[ControlEffect]:
        """A person gave this board another token: the whole cluster is to have it."""
        generation = self._lock.generation + 1 if self._lock else 1
        return self._adopt(Lock(token=token, generation=generation), but=None)

    def token_news(self, message: TokenRotated) -> list[ControlEffect]:
        """Another member's token: the later generation wins, and of two rotations at once the larger bytes."""
        theirs = Lock(token=message.token, generation=message.generation)
        if self._lock is None or (theirs.generation, theirs.token) <= (self._lock.generation, self._lock.token):
            return []
        return self._adopt(theirs, but=message.sender)

    def _adopt(self, lock: Lock, but: PeerId | None) -> list[ControlEffect]:
        self._lock = lock
        return [AdoptToken(lock=lock), *self._say.tell_all(self._say.token(lock), but=but)]

    def revoked(self) -> tuple[PeerId, ...]:
        """Who is refused for good, the oldest first."""
        return tuple(self._revoked)

    def is_revoked(self, peer: PeerId) -> bool:
        return peer in self._revoked

    def revoke(self, peer: PeerId) -> bool:
        """Refuse `peer` for good; False when it is refused already. The oldest of too many is given up."""
        if peer in self._revoked:
            return False
        self._revoked[peer] = None
        while len(self._revoked) > MAX_REVOKED:
            del self._revoked[next(iter(self._revoked))]
        return True

    def repeat(self, member: Member) -> list[ControlEffect]:
        """What `member` may have missed.

        Revocations first: a board that still believes in a revoked one would pass the new token on to it.
        """
        revoked = list(self._revoked)
        older = self._rng.sample(revoked, min(_REPEATED, len(revoked)))
        effects: list[ControlEffect] = [
            SendControl(to=member, message=self._say.removed(peer, revoked=True))
            for peer in dict.fromkeys([*revoked[-_REPEATED:], *older])
        ]
        if self._lock is not None and self._lock.generation:
            effects.append(SendControl(to=member, message=self._say.token(self._lock)))
        return effects

    def check(self) -> None:
        """Invariants, for tests."""
        assert len(self._revoked) <= MAX_REVOKED
