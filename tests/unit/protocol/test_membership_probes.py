"""Probes: who is measured, suspected and dead, and who judges nobody because it is itself the slow one."""

from dataclasses import replace

import pytest
from membership_cases import (
    ALIVE,
    BOOT,
    DEAD,
    LATER,
    PACE,
    SUSPECT,
    died_at,
    hear,
    hello,
    messages,
    peer,
    ping,
    pings,
    pong_of,
    ring_of,
    rumour,
    status,
    tick,
)

from peer.protocol.control_events import ControlEffect, LinkBroke, Redial, SendControl, TimerDue
from peer.protocol.messages import Hello, Ping, PingRequest, Pong, Rumour, Vouch
from peer.protocol.types import Incarnation, Status


def test_a_member_that_answers_is_measured_and_stays() -> None:
    one = ring_of(2)
    sent = pings(tick(one, 0.6))[peer(2)]
    hear(one, pong_of(sent), 0.75)
    hear(one, pong_of(sent), 0.9)  # a second one measures nothing
    rtt_s = one.view().members[peer(2)].rtt_s
    assert rtt_s is not None
    assert 0.15 <= rtt_s <= 0.3


def test_a_silent_member_is_asked_for_then_suspected_by_all_and_dead() -> None:
    one = ring_of(2, 3, 4)
    told: list[ControlEffect] = []
    while status(one, 3) is ALIVE:
        now = one.deadline()
        assert now is not None
        effects = one.handle(TimerDue(), now)
        told += effects
        for who, sent in pings(effects).items():
            if who != peer(3):
                hear(one, pong_of(sent), now)
    assert now <= 1.4
    asks = [e for e in told if isinstance(e, SendControl) and isinstance(e.message, PingRequest)]
    assert {e.to.peer for e in asks} == {peer(2), peer(4)}
    accusations = [e.to.peer for e in told if isinstance(e, SendControl) and isinstance(e.message, Rumour)]
    assert set(accusations) == {peer(2), peer(3), peer(4)}
    # Its introduction is asked for over the connection there is: a fresh one costs both ends a key exchange.
    assert any(isinstance(e, SendControl) and isinstance(e.message, Hello) and e.to.peer == peer(3) for e in told)
    assert now + PACE.suspect_shortest_s <= died_at(one, 3) <= now + PACE.suspect_longest_s + 0.1


def test_who_hears_nobody_tells_nobody_that_the_others_are_dead() -> None:
    """It is cut off itself; what waited for the others would be believed when the cable is back."""
    one = ring_of(2, 3, 4)
    told = []
    while any(status(one, index) is not DEAD for index in (2, 3, 4)):
        now = one.deadline()
        assert now is not None
        told += [(e.to.peer, e.message) for e in one.handle(TimerDue(), now) if isinstance(e, SendControl)]
    verdicts = [(to, m) for to, m in told if isinstance(m, Rumour) and m.status is DEAD]
    assert verdicts
    assert all(to == m.about for to, m in verdicts)


def test_nobody_is_judged_while_messages_lie_unread() -> None:
    """The pongs may be among them; a few that have just come are nothing."""
    behind, few = ring_of(2, 3, 4), ring_of(2, 3, 4)
    for step in range(200):
        for one, unread in ((behind, PACE.behind + 1), (few, PACE.behind)):
            if (at := one.deadline()) is not None and at <= step / 20:
                one.handle(TimerDue(unread=unread), step / 20)
                one.check()
    assert {status(behind, index) for index in (2, 3, 4)} == {ALIVE}
    assert {status(few, index) for index in (2, 3, 4)} == {DEAD}
    assert behind.counters["behind"] > 0
    # Once it has read everything it judges again, with the patience of a board that knows that it is slow.
    for step in range(200, 1000):
        if (at := behind.deadline()) is not None and at <= step / 20:
            behind.handle(TimerDue(), step / 20)
    assert {status(behind, index) for index in (2, 3, 4)} == {DEAD}


def test_a_suspect_does_not_die_of_what_lies_unread() -> None:
    one = ring_of(2, 3, 4)
    hear(one, rumour(2, 3, SUSPECT))
    for step in range(1, 400):
        if (at := one.deadline()) is not None and at <= step / 20:
            one.handle(TimerDue(unread=PACE.behind + 1), step / 20)
    assert status(one, 3) is SUSPECT
    hear(one, rumour(3, 3, ALIVE, LATER), 20.0)
    assert status(one, 3) is ALIVE


def test_the_word_of_another_counts_and_the_connection_is_made_anew() -> None:
    one = ring_of(2, 3)
    asked = [e.message for e in tick(one, 1.1) if isinstance(e, SendControl) and isinstance(e.message, PingRequest)]
    ask = next(m for m in asked if isinstance(m, PingRequest) and m.target == peer(3))
    vouch = Vouch(sender=peer(2), incarnation=Incarnation(BOOT), target=peer(3), sequence=ask.sequence)
    assert [type(e) for e in hear(one, vouch, 1.1)] == [Redial, SendControl]
    assert hear(one, vouch, 1.1) == []
    assert hear(one, replace(vouch, target=peer(9)), 1.1) == []


def test_helping_others_is_answered_once_and_bounded() -> None:
    one = ring_of(2, 3)
    ask = PingRequest(sender=peer(2), incarnation=Incarnation(BOOT), target=peer(3), sequence=77)
    sent = pings(hear(one, ask))[peer(3)]
    assert isinstance(sent.message, Ping)
    assert sent.message.sequence != 77
    (vouch,) = messages(hear(one, pong_of(sent)))
    assert vouch == Vouch(sender=peer(1), incarnation=Incarnation(BOOT), target=peer(3), sequence=77)
    assert hear(one, pong_of(sent)) == []
    for target in (9, 2):
        assert hear(one, replace(ask, target=peer(target))) == []
    for _ in range(300):
        hear(one, ask)
    assert hear(one, ask) == []
    assert pings(hear(one, ask, 10.0))  # the old errands made room


def test_a_broken_link_is_asked_about_at_once_and_kills_fast() -> None:
    one = ring_of(2, 3)
    effects = one.handle(LinkBroke(peer=peer(3)), 0.2)
    assert [type(e) for e in effects] == [Redial, SendControl]
    assert died_at(one, 3) <= 0.2 + 1.5
    assert one.handle(LinkBroke(peer=peer(3)), 9.0) == []
    assert one.handle(LinkBroke(peer=peer(9)), 9.0) == []


def test_a_broken_link_of_a_board_that_answers_means_nothing() -> None:
    one = ring_of(2)
    (sent,) = pings(one.handle(LinkBroke(peer=peer(2)), 0.1)).values()
    hear(one, pong_of(sent), 0.2)
    tick(one, 0.55)
    assert status(one, 2) is ALIVE


def test_a_broken_link_hurries_a_suspicion() -> None:
    one = ring_of(2, 3)
    hear(one, rumour(2, 3, SUSPECT))
    one.handle(LinkBroke(peer=peer(3)), 0.1)
    assert died_at(one, 3) <= 1.0


def test_a_board_that_slept_accuses_nobody() -> None:
    one = ring_of(2, 3)
    hear(one, rumour(2, 3, SUSPECT))
    tick(one, 0.6)
    effects = one.handle(TimerDue(), 20.0)
    assert not messages(effects, Rumour)
    assert (status(one, 2), status(one, 3)) == (ALIVE, SUSPECT)


def test_when_nobody_answers_nobody_is_told() -> None:
    one = ring_of(2, 3)
    effects = tick(one, 1.6)
    assert (status(one, 2), status(one, 3)) == (SUSPECT, SUSPECT)
    assert not messages(effects, Rumour)


@pytest.mark.parametrize(("stuck_ms", "then"), [(9_000, ALIVE), (11_000, SUSPECT)])
def test_a_worker_that_is_stuck_is_no_answer(stuck_ms: int, then: Status) -> None:
    one = ring_of(2, 3)
    now = 0.0
    while now < 1.5:
        at = one.deadline()
        assert at is not None
        now = at
        for who, sent in pings(one.handle(TimerDue(), now)).items():
            hear(one, pong_of(sent, stuck_ms if who == peer(3) else 0), now)
    assert status(one, 3) is then
    assert bool(one.counters["stuck_pongs"]) == (then is SUSPECT)


def test_a_stuck_board_answers_pings_and_claims_nothing() -> None:
    one = ring_of(2)
    one.stuck_s = 12.5
    (pong,) = messages(hear(one, ping(2)))
    assert isinstance(pong, Pong)
    assert pong.stuck_ms == 12_500
    assert not messages(hear(one, rumour(2, 1, SUSPECT)))
    assert not messages(hear(one, hello(2)))


def test_who_comes_and_goes_has_to_stay_for_a_while() -> None:
    one = ring_of(2, 3)
    for step in range(1, 4):
        hear(one, rumour(2, 3, DEAD, BOOT + step), float(step))
        hear(one, rumour(3, 3, ALIVE, BOOT + step + 1), step + 0.5)
        assert status(one, 3) is (ALIVE if step < 3 else SUSPECT)
    assert one.counters["flaps"] == 1
    assert "comes and goes" in one.view().members[peer(3)].reason
    now = 3.5
    while now < 3.5 + PACE.flap_hold_s:
        assert status(one, 3) is SUSPECT
        now = one.deadline() or now
        for sent in pings(one.handle(TimerDue(), now)).values():
            hear(one, replace(pong_of(sent)), now)
    assert status(one, 3) is ALIVE
