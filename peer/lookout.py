"""Discovery on asyncio: what is seen on the LAN becomes a hint for the membership, if it is of the same cluster."""

from collections.abc import Callable
from dataclasses import replace

from peer.discovery import Announcement, Discovery
from peer.protocol.types import Address
from peer.protocol.wire import PROTOCOL_VERSION


class Lookout:
    """Passes sightings on; decides nothing else. `problem` says why nobody can be seen."""

    def __init__(
        self, discovery: Discovery, announcement: Announcement, *, on_sighting: Callable[[Address], None]
    ) -> None:
        """`announcement` is what `discovery` was made with; its tag names the cluster whose boards count."""
        self.strangers = 0  # boards of other clusters or protocol versions that were seen
        self._discovery = discovery
        self._announcement = announcement
        self._on_sighting = on_sighting

    @property
    def problem(self) -> str | None:
        """Why this board does not see others by mDNS at present, or None."""
        problem = self._discovery.problem
        return None if problem is None else str(problem)

    def change_tag(self, tag: str) -> None:
        """The cluster has another token, and so another tag."""
        self._announcement = replace(self._announcement, tag=tag)
        self._discovery.announce(self._announcement)

    async def announce(self) -> None:
        """Run for ever: announce this board, look around."""
        await self._discovery.run()

    async def watch(self) -> None:
        """Run for ever: take sightings in."""
        async for sighting in self._discovery.sightings():
            if sighting.tag != self._announcement.tag or sighting.version != PROTOCOL_VERSION:
                self.strangers += 1
                continue
            for host in _worth_a_greeting(sighting.hosts):
                self._on_sighting(Address(host=host, port=sighting.port))


def _worth_a_greeting(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Two addresses at most, of the family of the most promising one.

    A board is where it answered last. Over IPv6 it would be out of reach as soon as the LAN drops multicast, of which
    IPv6 finds its neighbours; IPv4, where there is any, asks by broadcast.
    """
    return tuple(host for host in hosts if (":" in host) == (":" in hosts[0]))[:2]
