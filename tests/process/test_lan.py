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


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Lan, Daemons]]:
    """Three boards that several tests use one after the other; each makes them one ring again."""
    with lan(3) as made, cluster(made, MODELS) as running:
        yield made, running


def together(daemons: Daemons) -> None:
    """Start who is missing, and wait for one ring of three."""
    daemons.start(*(index for index in (0, 1, 2) if index not in daemons.processes))
    daemons.wait(lambda: daemons.one_ring(0, 1, 2), "one ring of three", 30.0)


def test_boards_find_each_other_without_a_keystroke_and_answer_together(shared: tuple[Lan, Daemons]) -> None:
    _, daemons = shared
    daemons.start(0, 1)
    daemons.wait(lambda: daemons.one_ring(0, 1), "two boards see each other")
    daemons.start(2)
    daemons.wait(lambda: daemons.one_ring(0, 1, 2), "a board that is plugged in later joins by itself")
    report = daemons.infer(1, PHOTO.read_bytes())
    assert len(report.boards) == 3
    assert daemons.end(2, signal.SIGTERM) == 0
    daemons.wait(lambda: daemons.status(0, 2) == "left", "a goodbye is heard")


def test_a_board_that_is_killed_stopped_or_unplugged_leaves_the_ring_and_comes_back(
    shared: tuple[Lan, Daemons],
) -> None:
    boards, daemons = shared

    def gone(victim: int) -> None:
        others = [index for index in (0, 1, 2) if index != victim]
        daemons.wait(lambda: all(daemons.status(i, victim) == "dead" for i in others), f"board {victim} is dead")
        assert len(daemons.infer(others[0], PHOTO.read_bytes()).boards) == 2

    together(daemons)
    daemons.end(2, signal.SIGKILL)
    gone(2)
    together(daemons)
    # Another one, since who comes and goes is not trusted at once.
    daemons.signal(1, signal.SIGSTOP)
    gone(1)
    daemons.signal(1, signal.SIGCONT)
    together(daemons)
    boards.cable(2, plugged=False)
    gone(2)
    boards.cable(2, plugged=True)
    together(daemons)


def test_a_hung_event_loop_is_no_living_board(shared: tuple[Lan, Daemons]) -> None:
    _, daemons = shared
    together(daemons)
    daemons.signal(0, signal.SIGUSR1)  # the process lives, its sockets are open, its loop sleeps
    daemons.wait(lambda: all(daemons.status(i, 0) == "dead" for i in (1, 2)), "the hung board is dead to the others")


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
    assert len(daemons.infer(1, PHOTO.read_bytes(), boards=2).boards) == 2  # or one that is slow for now is left out
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
