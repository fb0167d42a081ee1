"""The arithmetic under membership: patience, own slowness, probes, errands and doors to greet."""

from itertools import pairwise
from random import Random

import pytest

from peer.protocol.dials import HINT_PATIENCE, MAX_HINTS, Dials
from peer.protocol.helping import MAX_HELPED, Helping
from peer.protocol.probing import ProbePace, Probing
from peer.protocol.suspicion import MAX_SCORE, OwnSlowness, Suspicion, patience_s
from peer.protocol.types import Address, PeerId

PACE = ProbePace()
A, B, C, D, E = (PeerId(f"{n:016x}") for n in range(5))
OWN = Address(host="own", port=7411)


def door(index: int, port: int = 7411) -> Address:
    return Address(host=f"h{index}", port=port)


def dials(*seeds: Address) -> Dials:
    return Dials(own=OWN, seeds=seeds, first_s=0.2, last_s=5.0, now=0.0)


# Patience.


def test_a_lone_accuser_waits_longest_and_each_confirmation_shortens_it() -> None:
    times = [patience_s(longest_s=3.5, shortest_s=1.5, confirmations=c, expected=3) for c in range(5)]
    assert times == pytest.approx([3.5, 2.5, 1.915, 1.5, 1.5], abs=0.01)
    assert patience_s(longest_s=3.5, shortest_s=1.5, confirmations=2, expected=0) == 3.5


def test_a_suspicion_is_hurried_and_never_slowed() -> None:
    suspicion = Suspicion(since_at=10.0, longest_s=3.5, shortest_s=1.5, expected=2, accusers={A})
    assert suspicion.dead_at() == 13.5
    suspicion.accusers |= {B, C}
    assert suspicion.dead_at() == 11.5
    suspicion.hurry(0.9)
    assert suspicion.dead_at() == 10.9
    suspicion.hurry(5.0)
    assert suspicion.dead_at() == 10.9


def test_own_slowness_stretches_within_bounds() -> None:
    slowness = OwnSlowness(ease_s=0.5)
    slowness.punctual(0.0)
    assert slowness.stretch == 1.0
    for _ in range(20):
        slowness.late()
    assert slowness.stretch == 1 + MAX_SCORE / 2
    slowness.punctual(1.0)
    assert slowness.stretch == 1 + (MAX_SCORE - 1) / 2
    slowness.punctual(1.4)  # nineteen others answer as well
    assert slowness.stretch == 1 + (MAX_SCORE - 1) / 2
    slowness.punctual(1.5)
    assert slowness.stretch == 1 + (MAX_SCORE - 2) / 2


# Probes.


def test_a_probe_asks_again_and_others_and_then_gives_its_verdict() -> None:
    probing = Probing(pace=PACE, rng=Random(1), now=0.0)
    assert probing.deadline() == PACE.period_s
    first = probing.due([A], [A, B, C, D, E], stretch=1.0, now=0.5)
    ((target, sequence),) = first.ping
    assert (target, first.ask, first.silent) == (A, (), ())
    second = probing.due([A], [A, B, C, D, E], stretch=1.0, now=0.5 + PACE.answer_s)
    assert second.ping == ((A, sequence),)
    assert len(second.ask) == PACE.helpers
    assert {helper for helper, _, _ in second.ask} <= {B, C, D, E}
    third = probing.due([A], [B], stretch=1.0, now=0.5 + PACE.verdict_s)
    assert third.silent == (A,)
    assert probing.answered(A, sequence, 2.0) is None


def test_a_stretched_probe_waits_longer_and_a_restarted_one_anew() -> None:
    probing = Probing(pace=PACE, rng=Random(1), now=0.0)
    probing.due([A], [], stretch=2.0, now=0.5)
    assert probing.due([A], [], stretch=2.0, now=0.5 + 1.9 * PACE.verdict_s).silent == ()
    probing.restart(9.0, stretch=1.0)
    assert probing.due([A], [], stretch=1.0, now=9.0 + 0.9 * PACE.verdict_s).silent == ()
    assert probing.due([A], [], stretch=1.0, now=9.0 + PACE.verdict_s).silent == (A,)


def test_an_answer_counts_once_and_only_for_its_own_probe() -> None:
    probing = Probing(pace=PACE, rng=Random(1), now=0.0)
    sequence = probing.start(A, stretch=1.0, now=1.0)
    assert probing.answered(A, sequence + 1, 1.1) is None
    assert probing.answered(B, sequence, 1.1) is None
    assert probing.answered(A, sequence, 1.25) == 0.25
    assert probing.answered(A, sequence, 1.25) is None


def test_an_urgent_probe_hurries_the_one_under_way() -> None:
    probing = Probing(pace=PACE, rng=Random(1), now=0.0)
    sequence = probing.start(A, stretch=1.0, now=1.0)
    assert probing.start(A, stretch=1.0, now=1.1, urgent=True) == sequence
    assert probing.due([A], [], stretch=1.0, now=1.1 + PACE.urgent_s).silent == (A,)
    probing.start(B, stretch=1.0, now=2.0, urgent=True)
    assert probing.due([B], [], stretch=1.0, now=2.0 + PACE.urgent_s).silent == (B,)


def test_of_many_members_a_few_are_probed_at_a_time_and_who_is_gone_is_forgotten() -> None:
    probing = Probing(pace=PACE, rng=Random(1), now=0.0)
    many = [PeerId(f"{n:016x}") for n in range(40)]
    assert len(probing.due(many, many, stretch=1.0, now=0.5).ping) == PACE.fanout == len(probing)
    probing.due([], [], stretch=1.0, now=0.6)
    assert len(probing) == 0


# Errands.


def test_an_errand_is_answered_once_by_its_target() -> None:
    helping = Helping(patience_s=1.0)
    first, second = helping.begin(A, C, 7, 0.0), helping.begin(B, C, 7, 0.0)
    assert first is not None
    assert second is not None
    assert helping.answered(D, first) is None
    assert helping.answered(C, second) == (B, 7)
    assert helping.answered(C, first) == (A, 7)
    assert helping.answered(C, first) is None


def test_errands_are_bounded_and_old_ones_make_room() -> None:
    helping = Helping(patience_s=1.0)
    assert all(helping.begin(A, B, n, 0.0) is not None for n in range(MAX_HELPED))
    assert helping.begin(A, B, 0, 0.9) is None
    assert helping.begin(A, B, 0, 1.0) is not None
    helping.check()


# Doors.


def test_a_silent_seed_is_greeted_for_ever_at_growing_intervals() -> None:
    some = dials(door(1), OWN)
    times = []
    while len(times) < 12:
        at = some.deadline()
        assert at is not None
        assert some.due(at) == [door(1)]
        times.append(at)
    pauses = [b - a for a, b in pairwise(times)]
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, *[5.0] * 6])


def test_a_silent_hint_is_dropped() -> None:
    some = dials()
    assert some.hint(door(1), 0.0)
    assert not some.hint(door(1), 0.0)
    greeted = 0
    while (at := some.deadline()) is not None:
        greeted += len(some.due(at))
    assert greeted == HINT_PATIENCE
    assert some.hint(door(1), 99.0)


@pytest.mark.parametrize("address", [OWN, door(1, 22), door(1, 0), Address(host="", port=7411)])
def test_suspicious_hints_are_not_followed(address: Address) -> None:
    some = dials()
    assert not some.hint(address, 0.0)
    assert some.due(0.0) == []


def test_hints_are_bounded_and_members_are_none() -> None:
    some = dials(door(1))
    assert sum(some.hint(door(n), 0.0) for n in range(2, 1000)) == MAX_HINTS
    some.check()
    some.answered(door(2), A, 0.0)
    assert some.hint(door(2000), 0.0)
    some.check()


def test_where_somebody_answered_nobody_is_greeted_until_it_left() -> None:
    some = dials(door(1))
    some.hint(door(2), 0.0)
    some.answered(door(1), A, 0.1)
    some.answered(door(2), B, 0.1)
    assert some.deadline() is None
    some.released(A, 1.0)
    some.released(B, 1.0)
    assert len(some) == 1
    assert some.due(1.2) == [door(1)]


def test_a_board_lives_at_one_address_and_never_at_ours() -> None:
    some = dials(door(1))
    some.answered(door(1), A, 0.0)
    some.answered(door(2), A, 0.0)
    assert some.due(0.2) == [door(1)]
    some.answered(OWN, B, 0.0)
    some.check()
