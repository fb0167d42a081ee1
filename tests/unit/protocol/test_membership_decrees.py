"""Leaving, forgetting, revoking, and new tokens."""

from dataclasses import replace
from random import Random

import pytest
from membership_cases import (
    ALIVE,
    BOOT,
    DEAD,
    LATER,
    LEFT,
    NEXT_BOOT,
    PACE,
    board,
    hear,
    hello,
    key,
    machine,
    messages,
    peer,
    ping,
    pings,
    pong_of,
    ring_of,
    rumour,
    said,
    status,
    tick,
)

from peer.protocol.control_events import (
    Admit,
    AdoptToken,
    ControlEffect,
    KeepRevoked,
    LeaveRequested,
    RemovalRequested,
    SendControl,
    Sighted,
    TimerDue,
    TokenChanged,
)
from peer.protocol.membership import Membership
from peer.protocol.messages import Goodbye, Ping, Removed, Stranger, TokenRotated
from peer.protocol.roster import MAX_MEMBERS
from peer.protocol.types import Address, Incarnation, Lock


def test_a_goodbye_holds_against_what_is_still_on_its_way() -> None:
    one = ring_of(2, 3)
    hear(one, Goodbye(sender=peer(2), incarnation=Incarnation(BOOT)))
    for late in (hello(2), hello(2, answer=True, incarnation=BOOT + 4), ping(2), rumour(3, 2, ALIVE, LATER)):
        hear(one, late)
        assert status(one, 2) is LEFT
    hear(one, hello(2, incarnation=NEXT_BOOT))
    assert status(one, 2) is ALIVE


def test_a_leaving_board_says_goodbye_and_then_nothing() -> None:
    one = ring_of(2, 3)
    effects = one.handle(LeaveRequested(), 1.0)
    assert [type(m) for m in messages(effects)] == [Goodbye, Goodbye]
    assert one.deadline() is None
    for message in (*said(2), hello(2), rumour(2, 1, DEAD)):
        assert hear(one, message, 2.0) == []
    assert one.handle(TimerDue(), 9.0) == []


def test_a_new_token_goes_to_all_and_the_later_of_two_wins() -> None:
    one = ring_of(2, 3, lock=Lock(token=bytes([5]) * 32, generation=0))
    effects = one.handle(TokenChanged(token=bytes([6]) * 32), 1.0)
    assert [e.lock.generation for e in effects if isinstance(e, AdoptToken)] == [1]
    assert len(messages(effects, TokenRotated)) == 2
    news = TokenRotated(sender=peer(2), incarnation=Incarnation(BOOT), generation=1, token=bytes([5]) * 32)
    assert hear(one, news) == []
    effects = hear(one, replace(news, token=bytes([7]) * 32))
    assert [e.lock.token for e in effects if isinstance(e, AdoptToken)] == [bytes([7]) * 32]
    assert [e.to.peer for e in effects if isinstance(e, SendControl)] == [peer(3)]
    assert hear(one, replace(news, generation=0, token=bytes([9]) * 32)) == []


def test_without_a_token_nobody_is_given_one() -> None:
    one = ring_of(2)
    assert hear(one, TokenRotated(sender=peer(2), incarnation=Incarnation(BOOT), generation=9, token=bytes(32))) == []


def test_what_was_decreed_is_repeated() -> None:
    one = ring_of(2, 3, lock=Lock(token=bytes(32), generation=2))
    one.handle(RemovalRequested(peer=peer(3), revoked=True), 0.0)
    effects: list[ControlEffect] = []
    now = 0.0
    while now < PACE.sync_s:
        now = one.deadline() or now
        new = one.handle(TimerDue(), now)
        effects += new
        for sent in pings(new).values():
            hear(one, pong_of(sent), now)
    assert messages(effects, TokenRotated)
    assert messages(effects, Removed)


def test_a_revoked_board_stays_revoked_after_a_restart() -> None:
    one = ring_of(2, 3)
    (kept,) = [e for e in one.handle(RemovalRequested(peer=peer(3), revoked=True), 0.0) if isinstance(e, KeepRevoked)]
    assert kept.peers == (peer(3),)
    known = tuple(replace(one.view().members[peer(2)], peer=peer(i), public_key=key(i), status=DEAD) for i in (2, 3))
    again = Membership(me=board(1), seeds=(), remembered=known, revoked=kept.peers, pace=PACE, rng=Random(1), now=0.0)
    assert again.admitted() == {key(2)}
    hear(again, hello(3), door=True)
    assert status(again, 3) is None
    assert again.counters["revoked_boards"] == 1


@pytest.mark.parametrize("revoked", [False, True])
def test_a_removed_board_is_not_listed_nor_admitted(*, revoked: bool) -> None:
    one = ring_of(2, 3)
    effects = one.handle(RemovalRequested(peer=peer(3), revoked=revoked), 0.0)
    one.check()
    assert effects[0] == Admit(keys=frozenset({key(2)}))
    assert [e.to.peer for e in effects if isinstance(e, SendControl)] == [peer(2)]
    assert status(one, 3) is None
    hear(one, hello(3), door=True)
    assert (status(one, 3) is None) == revoked
    assert one.handle(RemovalRequested(peer=peer(1), revoked=True), 0.0) == []


def test_a_revocation_is_passed_on_once_and_a_forgotten_board_that_lives_stays() -> None:
    one = ring_of(2, 3, 4)
    news = Removed(sender=peer(2), incarnation=Incarnation(BOOT), about=peer(3), revoked=False)
    assert hear(one, news) == []
    assert status(one, 3) is ALIVE
    effects = hear(one, replace(news, revoked=True))
    assert [e.to.peer for e in effects if isinstance(e, SendControl)] == [peer(4)]
    assert hear(one, replace(news, revoked=True)) == []
    assert hear(one, replace(news, about=peer(1), revoked=True)) == []


def test_lists_are_bounded_and_who_is_gone_for_longest_makes_room() -> None:
    one = machine()
    for index in range(10, 10 + MAX_MEMBERS + 50):
        hear(one, hello(index, answer=True, host=f"h{index}"), door=True)
    assert one.counters["members_refused"] == 50
    hear(one, Stranger(sender=peer(5000), version=2, name="x"), door=True)
    assert one.counters["members_refused"] == 51
    for index in (12, 11):
        hear(one, Goodbye(sender=peer(index), incarnation=Incarnation(BOOT)), float(20 - index))
    hear(one, hello(900, answer=True), 30.0)
    assert (status(one, 12), status(one, 11), status(one, 900)) == (None, LEFT, ALIVE)
    for index in range(2000, 3100):
        one.handle(RemovalRequested(peer=peer(index), revoked=True), 0.0)
        one.handle(Sighted(address=Address(host=f"x{index}", port=7411)), 0.0)
    one.check()


def test_the_own_speed_travels_with_pings() -> None:
    one = ring_of(2)
    one.set_speed(12.5)
    sent = pings(tick(one, 0.6))[peer(2)]
    assert isinstance(sent.message, Ping)
    assert sent.message.speed == 12.5
