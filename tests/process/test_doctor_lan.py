"""`peerctl doctor` on a LAN of namespaces: multicast that passes both ways, or one way, or not at all."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.cluster import Daemons, cluster
from tests.helpers.lan import Lan, lan, why_no_lan

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(why_no_lan()), reason=why_no_lan() or "runs")]

LIMIT_S = 60.0
MODELS = Path(__file__).parents[2] / "models_onnx"


@pytest.fixture
def boards() -> Iterator[Lan]:
    with lan(2) as made:
        yield made


@pytest.fixture
def daemons(boards: Lan) -> Iterator[Daemons]:
    with cluster(boards, MODELS) as running:
        yield running


def network(boards: Lan, daemons: Daemons, index: int) -> list[dict[str, str]]:
    """What doctor says of the network on a board: an interface over IPv4, then over IPv6."""
    socket = daemons.home(index) / "sock"
    done = boards[index].run(sys.executable, "-m", "peer.cli", "doctor", "--json", "--socket", socket)
    return [f for f in json.loads(done.stdout)["findings"] if f["topic"] == "network"]


def sooner_or_later(
    boards: Lan, daemons: Daemons, holds: Callable[[dict[str, str], dict[str, str]], bool], word: str
) -> list[dict[str, str]]:
    """What doctor says on board 0 once it fits and says `word` of IPv4."""
    end = time.monotonic() + LIMIT_S
    while True:
        found = network(boards, daemons, 0)
        if holds(*found) and word in found[0]["what"]:
            return found
        assert time.monotonic() < end, found


def test_multicast_is_seen_to_pass_and_seen_to_be_dropped(boards: Lan, daemons: Daemons) -> None:
    daemons.start(0, 1)
    daemons.wait(lambda: daemons.one_ring(0, 1), "two boards see each other")
    # A board answers once it has announced itself, some two seconds after its start.
    over_4, over_6 = sooner_or_later(
        boards, daemons, lambda four, six: {four["level"], six["level"]} == {"ok"}, "heard"
    )
    assert f"IPv4: multicast passes both ways, heard {boards[1].address}" in over_4["what"]
    assert "IPv6: multicast passes both ways, heard f" in over_6["what"]  # a link-local address, or one of the LAN

    boards.block_multicast()
    over_4, over_6 = sooner_or_later(boards, daemons, lambda four, _: four["level"] == "note", "did not answer")
    assert f"{boards[1].address} did not answer" in over_4["what"]
    assert "seeds" in over_4["remedy"]
    assert "heard" not in over_6["what"]


def test_interfaces_that_cannot_do_it(boards: Lan, daemons: Daemons) -> None:
    daemons.start(0)
    daemons.wait(lambda: daemons.one_ring(0), "a board alone")
    boards[0].ip("link set eth0 multicast off")
    (off,) = network(boards, daemons, 0)
    assert off["level"] == "wrong"
    assert "switched off on eth0" in off["what"]
    boards[0].ip("link set eth0 multicast on")
    boards[0].interface(up=False)
    assert "eth0" in network(boards, daemons, 0)[0]["what"]
