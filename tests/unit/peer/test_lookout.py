"""What becomes of a sighting: a hint per address worth a greeting, and none for boards of another cluster."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from peer.discovery import Announcement, DiscoveryUnavailable, Sighting
from peer.lookout import Lookout
from peer.protocol.types import Address, PeerId
from peer.protocol.wire import PROTOCOL_VERSION

ME = Announcement(peer=PeerId("11" * 8), tag="ab" * 8, version=PROTOCOL_VERSION, port=7411)


class Seen:
    """A discovery that has seen what it is given."""

    announced_as = None

    def __init__(self, *sightings: Sighting) -> None:
        self._sightings = sightings

    @property
    def problem(self) -> DiscoveryUnavailable | None:
        return None

    async def run(self) -> None:
        """Nothing to announce to."""

    def announce(self, announcement: Announcement) -> None:
        """Nobody hears it."""

    async def sightings(self) -> AsyncIterator[Sighting]:
        for sighting in self._sightings:
            yield sighting


def sighting(*hosts: str, tag: str = ME.tag, version: int = PROTOCOL_VERSION) -> Sighting:
    return Sighting(peer=PeerId("22" * 8), tag=tag, version=version, hosts=hosts, port=7411)


@pytest.mark.parametrize(
    ("hosts", "greeted"),
    [
        (("10.0.0.2",), ["10.0.0.2"]),
        (("10.0.0.2", "fd00::2"), ["10.0.0.2"]),
        (("fd00::2", "fe80::2%eth0", "10.0.0.2"), ["fd00::2", "fe80::2%eth0"]),
        (("10.0.0.2", "10.0.1.2", "10.0.2.2"), ["10.0.0.2", "10.0.1.2"]),
    ],
)
def test_addresses_of_one_family_are_greeted(hosts: tuple[str, ...], greeted: list[str]) -> None:
    hints: list[Address] = []
    asyncio.run(Lookout(Seen(sighting(*hosts)), ME, on_sighting=hints.append).watch())
    assert [hint.host for hint in hints] == greeted


def test_boards_of_other_clusters_and_versions_are_only_counted() -> None:
    hints: list[Address] = []
    strangers = (sighting("10.0.0.2", tag="cd" * 8), sighting("10.0.0.2", version=PROTOCOL_VERSION + 1))
    lookout = Lookout(Seen(*strangers), ME, on_sighting=hints.append)
    asyncio.run(lookout.watch())
    assert (hints, lookout.strangers) == ([], 2)
