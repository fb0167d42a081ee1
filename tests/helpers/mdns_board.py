"""One board's discovery as a process: `mdns_board.py ID PORT [--interface NAME]... [--tag TAG] [--host ADDRESS]...`.

Prints a line of JSON for each thing that happens, with the seconds since the start in `at`.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from peer.discovery import Announcement
from peer.mdns import MdnsDiscovery, MdnsPace
from peer.protocol.types import PeerId

_started_at = time.monotonic()


def say(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, "at": round(time.monotonic() - _started_at, 3), **facts}), flush=True)


async def watch(discovery: MdnsDiscovery) -> None:
    """Report every change of what the daemon's status would show."""
    problem, name = None, None
    while True:
        if str(discovery.problem) != str(problem):
            problem = discovery.problem
            say("problem", text=str(problem) if problem else "")
        if discovery.announced_as != name:
            name = discovery.announced_as
            say("announced", name=name)
        await asyncio.sleep(0.02)


async def listen(discovery: MdnsDiscovery) -> None:
    async for seen in discovery.sightings():
        say("sighting", peer=seen.peer, tag=seen.tag, version=seen.version, hosts=seen.hosts, port=seen.port)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("id")
    parser.add_argument("port", type=int)
    parser.add_argument("--interface", action="append", default=[])
    parser.add_argument("--host", action="append", default=[])
    parser.add_argument("--tag", default="00" * 8)
    given = parser.parse_args()
    announcement = Announcement(
        peer=PeerId(given.id), tag=given.tag, version=3, port=given.port, hosts=tuple(given.host)
    )
    discovery = MdnsDiscovery(announcement, allowed=given.interface, pace=MdnsPace(look_s=0.5, retry_s=0.5))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    say("start")
    tasks = [asyncio.ensure_future(work) for work in (discovery.run(), watch(discovery), listen(discovery))]
    stopped = asyncio.ensure_future(stop.wait())
    done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    assert stopped in done, "discovery ended by itself"
    say("stopped", refused_names=discovery.refused_names)


asyncio.run(main())
