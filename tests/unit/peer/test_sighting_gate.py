"""A flood of names and repeats costs little, and a board that was known before it stays known."""

from hypothesis import given
from hypothesis import strategies as st

from peer.discovery import Sighting
from peer.protocol.types import PeerId
from peer.sighting_gate import GateLimits, SightingGate


def sighting(port: int = 7700) -> Sighting:
    return Sighting(peer=PeerId("00" * 8), tag="11" * 8, version=3, hosts=("10.77.1.1",), port=port)


def test_a_flood_of_names_lets_64_in_each_minute() -> None:
    gate = SightingGate()
    let_in = [n for n in range(20_000) if gate.admit_name(f"n{n}", now=n / 100)]  # 200 s of a hundred each second
    assert len(let_in) == 4 * 64
    assert gate.refused_names == 20_000 - 4 * 64
    assert len(gate.names) == 4 * 64


def test_a_known_name_passes_while_new_ones_are_refused() -> None:
    gate = SightingGate()
    assert gate.admit_name("board", 0)
    for n in range(1000):
        gate.admit_name(f"n{n}", 1)
    assert gate.admit_name("board", 2)
    assert gate.admit("board", sighting(), 2)


def test_memory_is_bounded_and_who_is_heard_of_stays() -> None:
    gate = SightingGate(GateLimits(new_names=1000, window_s=1, names=10))
    for n in range(500):
        gate.admit_name(f"n{n}", n)
        gate.admit_name("board", n)
    assert len(gate.names) == 10
    assert gate.knows("board")
    assert not gate.knows("n0")


def test_a_sighting_is_repeated_after_five_seconds() -> None:
    gate = SightingGate()
    gate.admit_name("board", 0)
    passed = [t for t in range(16) if gate.admit("board", sighting(), t)]
    assert passed == [0, 5, 10, 15]


def test_after_a_move_everything_passes_once_more() -> None:
    gate = SightingGate()
    gate.admit_name("board", 0)
    assert gate.admit("board", sighting(), 0)
    gate.repeat()
    assert gate.admit("board", sighting(), 1)
    assert not gate.admit("board", sighting(), 2)


def test_a_change_passes_at_once_and_changes_are_few() -> None:
    gate = SightingGate()
    gate.admit_name("board", 0)
    passed = [port for port in range(7700, 7800) if gate.admit("board", sighting(port), 0.0)]
    assert passed == [7700, 7701, 7702, 7703]
    assert gate.admit("board", sighting(7799), 5.0)


def test_nothing_passes_under_a_name_that_was_not_let_in() -> None:
    gate = SightingGate()
    assert not gate.admit("stranger", sighting(), 0)
    assert not gate.may_ask("stranger", 0)


def test_a_name_is_asked_about_once_in_five_seconds() -> None:
    gate = SightingGate()
    gate.admit_name("board", 0)
    assert [t for t in range(12) if gate.may_ask("board", t)] == [0, 5, 10]


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 3)), max_size=200))
def test_no_window_ever_holds_more_new_names_than_the_limit(steps: list[tuple[int, float]]) -> None:
    limits = GateLimits(new_names=3, window_s=10, names=5)
    gate, now, let_in = SightingGate(limits), 0.0, []
    for number, pause in steps:
        now += pause
        known = gate.knows(f"n{number}")
        if gate.admit_name(f"n{number}", now) and not known:
            let_in.append(now)
        assert len(gate.names) <= limits.names
    for at in let_in:
        assert sum(at <= other < at + limits.window_s for other in let_in) <= limits.new_names
