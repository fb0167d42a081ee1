"""Whole requests that other boards have handed to this one: at most so many; each ends once."""

from peer.protocol.effects import Effect, Forget, RunErrand, Send
from peer.protocol.events import ComputeFailed, ErrandDone
from peer.protocol.messages import Errand, Failed, Feature
from peer.protocol.types import AttemptKey, FailureReason, PeerId, Traffic


class Errands:
    """Errands under way on this board. Part of the request machine, which checks what it lets in."""

    def __init__(self) -> None:
        self._under_way: dict[AttemptKey, tuple[Errand, float]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, key: AttemptKey) -> bool:
        return key in self._under_way

    def asker(self, key: AttemptKey) -> PeerId | None:
        """Whose errand it is; None where there is none."""
        errand = self._under_way.get(key)
        return None if errand is None else errand[0].asker

    def deadline(self) -> float | None:
        return min((at for _, at in self._under_way.values()), default=None)

    def begin(self, key: AttemptKey, errand: Errand, now: float) -> list[Effect]:
        self._under_way[key] = (errand, now + errand.deadline_ms / 1000)
        return [RunErrand(key=key, errand=errand)]

    def done(self, event: ErrandDone) -> list[Effect]:
        """The answer goes back, as the class token of a shared request does."""
        found = self._under_way.pop(event.key, None)
        if found is None:
            return []
        errand, _ = found
        feature = Feature(
            request=errand.request,
            attempt=errand.attempt,
            epoch=errand.epoch,
            origin=0,
            lost=(),
            timing=event.timing,
            traffic=Traffic(messages=1),
            body=event.body,
        )
        return [Send(to=errand.asker, message=feature), Forget(key=event.key)]

    def failed(self, event: ComputeFailed) -> list[Effect]:
        found = self._under_way.pop(event.key, None)
        if found is None:
            return []
        return [Send(to=found[0].asker, message=refusal(found[0], event.reason, event.detail)), Forget(key=event.key)]

    def end(self, key: AttemptKey) -> list[Effect]:
        """Nobody waits for it any more."""
        return [Forget(key=key)] if self._under_way.pop(key, None) else []

    def expire(self, now: float) -> list[AttemptKey]:
        """Errands whose time is over."""
        return [key for key, (_, at) in self._under_way.items() if now >= at]

    def of(self, peer: PeerId) -> list[AttemptKey]:
        """Errands of one board."""
        return [key for key, (errand, _) in self._under_way.items() if errand.asker == peer]


def refusal(errand: Errand, reason: FailureReason, detail: str) -> Failed:
    """Why an errand is not run."""
    return Failed(
        request=errand.request,
        attempt=errand.attempt,
        epoch=errand.epoch,
        origin=0,
        reason=reason,
        missing=(),
        detail=detail,
    )
