"""Boards on a LAN of namespaces: they find each other, notice who is gone, and take back who returns.

States are waited for with generous limits; how long they take is measured by `python -m tests.faults.joining`.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cluster import PORT, Daemons, cluster
from tests.helpers.lan import Lan, lan, why_no_lan

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(why_no_lan()), reason=why_no_lan() or "runs")]

MODELS = Path(__file__).parents[2] / "models_onnx"
PHOTO = Path(__file__).parents[2] / "docs/photos/chelsea.png"


@pytest.fixture
def boards() -> Iterator[Lan]:
    with lan(3) as made:
        yield made


@pytest.fixture
def daemons(boards: Lan) -> Iterator[Daemons]:
    with cluster(boards, MODELS) as running:
        yield running


def test_boards_find_each_other_without_a_keystroke_and_answer_together(daemons: Daemons) -> None:
    daemons.start(0, 1)
    daemons.wait(lambda: daemons.one_ring(0, 1), "two boards see each other")
    daemons.start(2)
    daemons.wait(lambda: daemons.one_ring(0, 1, 2), "a board that is plugged in later joins by itself")
    report = daemons.infer(1, PHOTO.read_bytes())
    assert len(report.boards) == 3
    assert daemons.end(2, signal.SIGTERM) == 0
    daemons.wait(lambda: daemons.status(0, 2) == "left", "a goodbye is heard")


def test_a_board_that_is_killed_stopped_hung_or_unplugged_leaves_the_ring_and_comes_back(
    boards: Lan, daemons: Daemons
) -> None:
    daemons.start(0, 1, 2)
    daemons.wait(lambda: daemons.one_ring(0, 1, 2), "one ring of three")

    def gone() -> None:
        daemons.wait(lambda: all(daemons.status(i, 2) == "dead" for i in (0, 1)), "board 2 is dead to the others")
        assert len(daemons.infer(0, PHOTO.read_bytes()).boards) == 2

    def back() -> None:
        daemons.wait(lambda: daemons.one_ring(0, 1, 2), "board 2 is back in everybody's ring", 30.0)

    daemons.end(2, signal.SIGKILL)
    gone()
    daemons.start(2)
    back()
    daemons.signal(2, signal.SIGSTOP)
    gone()
    daemons.signal(2, signal.SIGCONT)
    back()
    boards.cable(2, plugged=False)
    gone()
    boards.cable(2, plugged=True)
    back()


def test_a_hung_event_loop_is_no_living_board(daemons: Daemons) -> None:
    daemons.start(0, 1, 2)
    daemons.wait(lambda: daemons.one_ring(0, 1, 2), "one ring of three")
    daemons.signal(2, signal.SIGUSR1)  # the process lives, its sockets are open, its loop sleeps
    daemons.wait(lambda: all(daemons.status(i, 2) == "dead" for i in (0, 1)), "the hung board is dead to the others")


def test_without_multicast_a_seed_is_enough_and_then_the_memory_of_it(boards: Lan, daemons: Daemons) -> None:
    boards.block_multicast()
    daemons.start(0)
    seed = ("--seed", f"{boards[0].address}:{PORT}", "--no-mdns")
    daemons.start(1, 2, options=seed)
    daemons.wait(lambda: daemons.one_ring(0, 1, 2), "one ring through one seed: members pass on whom they know")
    for index in (1, 2):
        daemons.end(index, signal.SIGKILL)
    daemons.start(1, 2, options=("--no-mdns",))
    daemons.wait(lambda: daemons.one_ring(0, 1, 2), "last-known boards are found without seed and multicast")


def test_a_new_address_is_followed(boards: Lan, daemons: Daemons) -> None:
    daemons.start(0, 1, 2)
    daemons.wait(lambda: daemons.one_ring(0, 1, 2), "one ring of three")
    boards[2].set_address("10.77.1.99")
    daemons.wait(
        lambda: daemons.one_ring(0, 1, 2) and "10.77.1.99" in daemons.members(0)["board-2"].endpoint,
        "board 2 is in the ring at its new address",
        40.0,
    )


def test_a_split_makes_two_rings_and_healing_one(boards: Lan, daemons: Daemons) -> None:
    daemons.start(0, 1, 2)
    daemons.wait(lambda: daemons.one_ring(0, 1, 2), "one ring of three")
    boards.split([0], [1, 2])
    daemons.wait(lambda: daemons.one_ring(1, 2) and daemons.one_ring(0), "each side has its own ring")
    assert len(daemons.infer(0, PHOTO.read_bytes()).boards) == 1
    assert len(daemons.infer(1, PHOTO.read_bytes()).boards) == 2
    boards.heal()
    daemons.wait(lambda: daemons.one_ring(0, 1, 2), "one ring again")


def test_a_copied_card_does_not_make_two_boards_of_one_name(boards: Lan, daemons: Daemons, tmp_path: Path) -> None:
    for index in (0, 1):
        machine = tmp_path / f"machine-{index}"
        machine.write_text(f"{index}" * 32 + "\n")
        boards[index].mount(machine, "/etc/machine-id")
    daemons.start(0)
    daemons.wait(lambda: daemons.one_ring(0), "board 0 serves")
    (daemons.home(1) / "identity.json").write_bytes((daemons.home(0) / "identity.json").read_bytes())
    daemons.start(1)
    daemons.wait(lambda: daemons.one_ring(0, 1), "the copy takes an identity of its own and joins")
    assert "another machine" in (daemons.home(1) / "log").read_text()


def test_ipv6_alone_is_enough() -> None:
    with lan(2, ipv4=False) as boards, cluster(boards, MODELS) as daemons:
        daemons.start(0, 1, listen=f"[::]:{PORT}")
        daemons.wait(lambda: daemons.one_ring(0, 1), "two boards see each other by IPv6")
        assert len(daemons.infer(0, PHOTO.read_bytes()).boards) == 2
