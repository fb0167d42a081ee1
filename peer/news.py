"""What of a changed view a person would act on, as log lines.

A board that is gone, cannot take part, or is back. Suspicion comes and goes by itself, and a board that left was asked
to.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from peer.protocol.types import Member, PeerId, Status

_log = logging.getLogger(__name__)
_TROUBLE = (Status.DEAD, Status.INCOMPATIBLE, Status.REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """One line about one board."""

    level: int
    peer: PeerId
    text: str


def news(before: Mapping[PeerId, Status], members: Mapping[PeerId, Member]) -> Iterator[News]:
    """What is new since each board had the status in `before`."""
    for peer, member in members.items():
        was = before.get(peer)
        if member.status is was:
            continue
        name = f"{member.name} ({peer})"
        if member.status in _TROUBLE:
            why = f": {member.reason}" if member.reason else ""
            # One that was dead before this board started is nothing new.
            level = logging.DEBUG if was is None and member.status is Status.DEAD else logging.WARNING
            yield News(level=level, peer=peer, text=f"{name} is {member.status.value}{why}")
        elif member.status is Status.ALIVE and was in _TROUBLE:
            yield News(level=logging.INFO, peer=peer, text=f"{name} is back")


def known(before: Mapping[PeerId, Status], members: Mapping[PeerId, Member]) -> dict[PeerId, Status]:
    """What to compare with the next time: a suspicion leaves what was believed before it."""
    return {
        peer: before.get(peer, Status.ALIVE) if member.status is Status.SUSPECT else member.status
        for peer, member in members.items()
    }


class NewsLog:
    """Writes the lines, once each."""

    def __init__(self) -> None:
        self._known: dict[PeerId, Status] = {}

    def tell(self, members: Mapping[PeerId, Member]) -> None:
        """Log what is new in a view."""
        for item in news(self._known, members):
            _log.log(item.level, "%s", item.text, extra={"peer": item.peer})
        self._known = known(self._known, members)
