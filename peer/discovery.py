"""How a board learns where others may be: the seam between the daemon and whatever looks around on the LAN.

A sighting is a hint. It never makes a board a member, never proves who it is, and its absence means nothing: the
encrypted handshake decides the first two and the membership's own probes the third.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from peer.errors import TransportError
from peer.protocol.types import PeerId


class DiscoveryUnavailable(TransportError):
    """This machine cannot look around now; the daemon goes on with seeds and the boards it knows."""

    kind = "discovery-unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What a board tells the LAN about itself."""

    peer: PeerId
    tag: str  # of the cluster: 16 hexadecimal digits that reveal nothing of its token
    version: int  # protocol version
    port: int  # of the door
    hosts: tuple[str, ...] = ()  # addresses the board listens on; empty for every address of its interfaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """Somebody says that a board can be reached there. Nothing of it is verified, and it may be of another cluster."""

    peer: PeerId
    tag: str
    version: int
    hosts: tuple[str, ...]  # 1 to 8 addresses, the most promising first; a link-local one carries `%` and an interface
    port: int  # 1024..65535


class Discovery(Protocol):
    """Announces this board and looks for others, for as long as `run` runs."""

    @property
    def problem(self) -> DiscoveryUnavailable | None:
        """Why it does not work at present, or None."""

    @property
    def announced_as(self) -> str | None:
        """The name under which others find this board, or None while it is not announced yet."""

    async def run(self) -> None:
        """Work until cancelled, then say goodbye (0.3 s). What is missing is waited for, and `problem` says what."""

    def announce(self, announcement: Announcement) -> None:
        """Announce this from now on; the id stays."""

    def sightings(self) -> AsyncIterator[Sighting]:
        """What is seen, as it is seen, at most once per few seconds; of too many unread ones the oldest go."""
