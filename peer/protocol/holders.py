"""The boards that hold a model, as its fetcher sees them: who is asked next, who rests, who is not asked again."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from peer.protocol.types import Member, ModelId, PeerId, Status, View

_REST_DOUBLINGS = 4


def holding(view: View, model: ModelId) -> list[Member]:
    """Other boards that answer and hold `model`; of another ring, too, as a board without common model needs theirs."""
    answering = (m for m in view.members.values() if m.status in (Status.ALIVE, Status.INCOMPATIBLE))
    return [member for member in answering if model in member.models and member.peer != view.self_id]


def most_held(view: View) -> ModelId | None:
    """The model that most other boards hold; of several, the one that most of them run by default, as far as they have
    said so, and then the one whose id is the smallest. None when none is held.
    """
    others = [member for member in view.alive() if member.peer != view.self_id]
    votes = Counter(model for member in others for model in member.models)
    # A board measures its default model first.
    usual = Counter(member.profile.models[0].model for member in others if member.profile and member.profile.models)
    return min(votes, key=lambda model: (-votes[model], -usual[model], model), default=None)


@dataclass(slots=True)
class _Holder:
    member: Member
    alive: bool = True
    asked: int = 0  # parts that it has been asked for and not answered
    given: int = 0
    failures: int = 0  # in a row
    rest_until: float = 0.0
    distrusted: str = ""  # why it is not asked again


class Holders:
    """Everybody who held the model since the fetch began. Alive is who the latest view says is alive and holds it."""

    def __init__(self, model: ModelId, view: View) -> None:
        self._model = model
        self._holders: dict[PeerId, _Holder] = {}
        self.changed(view)

    def changed(self, view: View) -> list[PeerId]:
        """Take in a view; returns who is gone since the last one, or came back as another run of itself."""
        alive = {member.peer: member for member in holding(view, self._model)}
        gone = []
        for peer, holder in self._holders.items():
            member = alive.get(peer)
            if holder.alive and (member is None or member.incarnation != holder.member.incarnation):
                gone.append(peer)
            holder.alive = member is not None
        for peer, member in alive.items():
            known = self._holders.setdefault(peer, _Holder(member))
            if known.member.incarnation != member.incarnation:
                known.rest_until, known.failures = 0.0, 0
            known.member = member
        return gone

    def member(self, peer: PeerId) -> Member:
        return self._holders[peer].member

    def choose(self, now: float, allowed: Collection[PeerId] | None = None) -> PeerId | None:
        """Who failed least, and of those who has least to do; None when nobody may be asked now."""
        able = [
            (holder.failures, holder.asked, holder.given, peer)
            for peer, holder in self._holders.items()
            if holder.alive and not holder.distrusted and now >= holder.rest_until
            if allowed is None or peer in allowed
        ]
        return min(able)[3] if able else None

    def knows(self, peer: PeerId) -> bool:
        return peer in self._holders

    def rested_at(self, now: float) -> float | None:
        """When the next holder that rests now may be asked again."""
        usable = (h for h in self._holders.values() if h.alive and not h.distrusted)
        return min((h.rest_until for h in usable if h.rest_until > now), default=None)

    def asked(self, peer: PeerId) -> None:
        self._holders[peer].asked += 1

    def released(self, peer: PeerId) -> None:
        """One question less is open."""
        self._holders[peer].asked -= 1

    def gave(self, peer: PeerId) -> None:
        holder = self._holders[peer]
        holder.given += 1
        holder.failures = 0

    def failed(self, peer: PeerId, rest_s: float, now: float) -> None:
        """It did not give what it was asked for: let it rest, longer each time."""
        holder = self._holders[peer]
        holder.rest_until = now + rest_s * 2 ** min(holder.failures, _REST_DOUBLINGS)
        holder.failures += 1

    def rest(self, peer: PeerId, rest_s: float, now: float) -> None:
        """It said that it is busy."""
        self._holders[peer].rest_until = now + rest_s

    def distrust(self, peer: PeerId, why: str) -> None:
        """Never ask it again during this fetch."""
        self._holders[peer].distrusted = why

    def hopeless(self) -> str:
        """Why nobody who is alive is to be asked again; empty while somebody is, or nobody is alive."""
        alive = [holder for holder in self._holders.values() if holder.alive]
        if not alive or any(not holder.distrusted for holder in alive):
            return ""
        return "; ".join(f"{h.member.name} {h.distrusted}" for h in alive[:3])

    def any_alive(self) -> bool:
        return any(holder.alive for holder in self._holders.values())

    def contributors(self) -> int:
        """How many boards gave at least one part."""
        return sum(holder.given > 0 for holder in self._holders.values())
