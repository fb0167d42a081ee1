"""The switch of user space does to frames what it is told, and requests over it are answered as over a good wire."""

import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.history import Client, History
from tests.helpers.cluster import Daemons, cluster
from tests.helpers.lan import Lan, why_no_lan
from tests.helpers.wire import Conditions, Direction, Wire, wired_lan

needs_lan = pytest.mark.skipif(bool(why_no_lan()), reason=why_no_lan() or "runs")
ROOT = Path(__file__).parents[2]
PHOTO = (ROOT / "docs/photos/chelsea.png").read_bytes()
ALL = (0, 1, 2)
PORT = 9000
SENT = 400
LIMIT_S = 60.0  # for states that a busy machine reaches late


def fates(seed: int, conditions: Conditions, way: tuple[int, int] = (0, 1)) -> list[tuple[float, ...]]:
    """A frame every millisecond."""
    direction = Direction(seed, *way)
    return [tuple(at - number / 1000 for at in direction.arrivals(conditions, number / 1000)) for number in range(SENT)]


def test_a_seed_decides_what_becomes_of_every_frame() -> None:
    bad = Conditions(delay_s=0.02, jitter=0.5, loss=0.2, doubled=0.1, reordered=0.1)
    assert fates(1, bad) == fates(1, bad)
    assert fates(1, bad) != fates(2, bad)
    assert fates(1, bad) != fates(1, bad, way=(1, 0))
    lost = [not fate for fate in fates(1, bad)]
    assert lost == [not fate for fate in fates(1, Conditions(loss=0.2))]  # other conditions lose the same ones


def test_shares_are_kept_and_a_good_wire_does_nothing() -> None:
    assert set(fates(1, Conditions())) == {(0.0,)}
    bad = fates(3, Conditions(loss=0.2, doubled=0.25))
    assert SENT * 0.15 < sum(not fate for fate in bad) < SENT * 0.25
    assert SENT * 0.15 < sum(len(fate) == 2 for fate in bad) < SENT * 0.25  # a quarter of those that pass


def test_jitter_keeps_the_order_and_only_reordered_frames_are_overtaken() -> None:
    late = Conditions(delay_s=0.05, jitter=0.5)
    taken = [fate[0] for fate in fates(4, late)]
    assert 0.025 <= min(taken) < 0.03
    assert max(taken) <= 0.075
    arrivals = [round(number / 1000 + at, 9) for number, at in enumerate(taken)]
    assert arrivals == sorted(arrivals)
    arrivals = [number / 1000 + at for number, (at,) in enumerate(fates(4, Conditions(reordered=0.1)))]
    assert SENT * 0.02 < sum(after < before for before, after in pairwise(arrivals)) < SENT * 0.12


def test_a_cut_has_a_direction() -> None:
    cut = Conditions(cut=((0, 1),))
    assert not any(fates(5, cut))
    assert all(fates(5, cut, way=(1, 0)))


@pytest.fixture(scope="module")
def wired() -> Iterator[tuple[Lan, Wire]]:
    with wired_lan(len(ALL), seed=7) as made:
        yield made


def received(boards: Lan, count: int = SENT) -> list[tuple[int, float]]:
    """Numbered datagrams from board 0 to board 1, one a millisecond: number and seconds under way of all that came."""
    with (
        boards[0].socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        boards[1].socket(socket.AF_INET, socket.SOCK_DGRAM) as target,
    ):
        target.bind((boards[1].address, PORT))
        target.settimeout(1.0)
        sent, came = [], []
        source.sendto(b"9999", (boards[1].address, PORT))  # asks for the hardware address first
        assert target.recv(99)
        target.setblocking(False)
        until = time.monotonic() + count / 1000 + 1.0
        while (now := time.monotonic()) < until:
            if len(sent) < count and (not sent or now >= sent[-1] + 0.001):
                source.sendto(b"%d" % len(sent), (boards[1].address, PORT))
                sent.append(now)
            try:
                number = int(target.recv(99))
            except BlockingIOError:
                continue
            if number < count:  # else the question for the address, doubled
                came.append((number, time.monotonic() - sent[number]))
        return came


@needs_lan
@pytest.mark.process
def test_datagrams_between_namespaces_meet_the_conditions(wired: tuple[Lan, Wire]) -> None:
    boards, wire = wired
    wire.set()
    assert [number for number, _ in received(boards)] == list(range(SENT))
    wire.set(delay_s=0.05)
    assert min(took for _, took in received(boards)) >= 0.05
    wire.set(loss=0.2)
    assert SENT * 0.7 < len(received(boards)) < SENT * 0.9
    wire.set(doubled=0.2, reordered=0.2)
    numbers = [number for number, _ in received(boards)]
    assert set(numbers) == set(range(SENT))
    assert len(numbers) > SENT * 1.1
    assert numbers != sorted(numbers)


@pytest.fixture(scope="module")
def daemons(wired: tuple[Lan, Wire]) -> Iterator[Daemons]:
    boards, wire = wired
    wire.set()
    with cluster(boards, ROOT / "models_onnx") as running:
        running.start(*ALL)
        running.wait(lambda: running.one_ring(*ALL), "one ring", LIMIT_S)
        yield running


@needs_lan
@pytest.mark.process
@pytest.mark.parametrize(
    ("conditions", "cut"),
    [
        ({"delay_s": 0.02, "jitter": 0.5}, []),
        ({"doubled": 0.1, "reordered": 0.1}, []),
        ({"delay_s": 0.005, "jitter": 0.5, "loss": 0.02, "doubled": 0.05, "reordered": 0.05}, []),
        ({}, [(1, 2)]),
    ],
    ids=["delay", "reordered and doubled", "all at once", "cut one way"],
)
def test_requests_over_a_bad_wire_end_rightly(
    wired: tuple[Lan, Wire], daemons: Daemons, conditions: dict[str, float], cut: list[tuple[int, int]]
) -> None:
    _, wire = wired
    wire.set()
    daemons.wait(lambda: daemons.one_ring(*ALL), "one ring again", LIMIT_S)
    whole = daemons.infer(0, PHOTO, mode="single", logits=True)
    wire.set(cut=cut, **conditions)
    history = History()
    for _ in range(3):
        Client(daemons.home(0) / "sock", 0, PHOTO, history, deadline_s=30.0).ask()
    assert not history.check(tuple(whole.logits or ()), degraded=False, errors=False)
