"""What discovery does when this machine slept, or an interface was replaced: decided without any network."""

import asyncio
import ipaddress
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest

from peer.discovery import Announcement
from peer.interfaces import Interface
from peer.mdns import MdnsDiscovery, MdnsPace
from peer.protocol.types import PeerId

ME = Announcement(peer=PeerId("00" * 8), tag="11" * 8, version=3, port=7700)


def interface(index: int) -> Interface:
    return Interface(name="eth0", index=index, addresses=(ipaddress.IPv4Interface("10.77.1.1/24"),))


async def watch(looks: list[Interface], sleeps: list[float], turns: int) -> tuple[bool, int]:
    """Watch for some turns; whether it ended by itself, and how often everybody was asked anew."""
    asked: list[int] = []
    seen, slept, done = chain(looks, repeat(looks[-1])), chain(sleeps, repeat(sleeps[-1])), asyncio.Event()
    taken = 0

    def look(_: object) -> tuple[Interface, ...]:
        nonlocal taken
        taken += 1
        if taken >= turns:
            done.set()
        return (next(seen),)

    pace = MdnsPace(look_s=0.001)
    discovery = MdnsDiscovery(ME, pace=pace, look=look, slept=lambda: next(slept))
    session: Any = SimpleNamespace(interfaces=(looks[0],), ask_again=lambda: asked.append(1))
    zeroconf: Any = SimpleNamespace(zeroconf=SimpleNamespace(engine=SimpleNamespace(senders=[object()])))
    watching = asyncio.ensure_future(discovery._watch(session, zeroconf))
    enough = asyncio.ensure_future(done.wait())
    await asyncio.wait([watching, enough], return_when=asyncio.FIRST_COMPLETED)
    ended = watching.done()
    for task in (watching, enough):
        task.cancel()
    await asyncio.gather(watching, enough, return_exceptions=True)
    return ended, len(asked)


@pytest.mark.parametrize(
    ("sleeps", "asked"),
    [
        ([100.0], 0),
        ([100.0, 100.4, 100.8, 101.2], 0),  # two clocks read a moment apart
        ([100.0, 100.0, 3700.0], 1),
        ([100.0, 160.0, 160.0, 220.0], 2),
    ],
)
async def test_a_suspension_asks_everybody_anew(sleeps: list[float], asked: int) -> None:
    assert await watch([interface(2)], sleeps, turns=8) == (False, asked)


async def test_an_interface_that_was_replaced_ends_the_session() -> None:
    ended, _ = await watch([interface(2), interface(2), interface(5)], [0.0], turns=50)
    assert ended
