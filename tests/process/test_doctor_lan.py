"""`peerctl doctor` on a LAN of namespaces: multicast that passes both ways, or one way, or not at all."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cluster import Daemons, cluster
from tests.helpers.lan import Lan, lan, why_no_lan

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(why_no_lan()), reason=why_no_lan() or "runs")]

MODELS = Path(__file__).parents[2] / "models_onnx"


@pytest.fixture
def boards() -> Iterator[Lan]:
    with lan(2) as made:
        yield made


@pytest.fixture
def daemons(boards: Lan) -> Iterator[Daemons]:
    with cluster(boards, MODELS) as running:
        yield running


def network(boards: Lan, daemons: Daemons, index: int) -> dict[str, dict[str, str]]:
    """What doctor says of the network on a board, by level."""
    socket = daemons.home(index) / "sock"
    done = boards[index].run(sys.executable, "-m", "peer.cli", "doctor", "--json", "--socket", socket)
    return {f["level"]: f for f in json.loads(done.stdout)["findings"] if f["topic"] == "network"}


def test_multicast_is_seen_to_pass_and_seen_to_be_dropped(boards: Lan, daemons: Daemons) -> None:
    daemons.start(0, 1)
    daemons.wait(lambda: daemons.one_ring(0, 1), "two boards see each other")
    assert boards[1].address in network(boards, daemons, 0)["ok"]["what"]

    boards.block_multicast()
    blocked = network(boards, daemons, 0)["note"]
    assert f"{boards[1].address} did not answer" in blocked["what"]
    assert "seeds" in blocked["remedy"]


def test_interfaces_that_cannot_do_it(boards: Lan, daemons: Daemons) -> None:
    daemons.start(0)
    daemons.wait(lambda: daemons.one_ring(0), "a board alone")
    boards[0].ip("link set eth0 multicast off")
    assert "switched off on eth0" in network(boards, daemons, 0)["wrong"]["what"]
    boards[0].ip("link set eth0 multicast on")
    boards[0].interface(up=False)
    assert "eth0" in network(boards, daemons, 0)["note"]["what"]
