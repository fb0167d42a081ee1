"""Who may say what: nothing counts under another's key, through the door, or by a stranger."""

from dataclasses import replace

import pytest
from membership_cases import (
    ALIVE,
    DEAD,
    EVERYTHING,
    PACE,
    hear,
    hello,
    messages,
    peer,
    ping,
    ring_of,
    said,
    status,
    tick,
)

from peer.protocol.control_events import Redial, RemovalRequested, SendControl
from peer.protocol.messages import ControlMessage, Hello, Stranger
from peer.protocol.types import Incarnation, Lock, Status


@pytest.mark.parametrize("at", EVERYTHING)
def test_under_anothers_key_nothing_is_believed(at: int) -> None:
    one = ring_of(2, 3, lock=Lock(token=bytes([1]) * 32, generation=0))
    before = one.view()
    assert hear(one, said(2)[at], key_of=3) == []
    assert one.view() == before
    assert one.counters == {"forged": 1}


@pytest.mark.parametrize("message", [hello(2, host="evil"), Stranger(sender=peer(2), version=2, name="b2")])
def test_an_introduction_under_anothers_key_is_dropped(message: ControlMessage) -> None:
    one = ring_of(2, 3)
    before = one.view()
    assert hear(one, message, key_of=3) == []
    assert one.view() == before
    assert one.counters == {"forged": 1}


@pytest.mark.parametrize("at", EVERYTHING)
def test_through_the_door_only_introductions_are_heard(at: int) -> None:
    one = ring_of(2, 3, lock=Lock(token=bytes([1]) * 32, generation=0))
    before = one.view()
    assert hear(one, said(2)[at], door=True) == []
    assert one.view() == before
    assert one.counters == {"forged": 1}


@pytest.mark.parametrize("at", EVERYTHING)
def test_who_is_not_listed_is_not_heard(at: int) -> None:
    one = ring_of(3)
    before = one.view()
    assert hear(one, said(2)[at]) == []
    assert one.view() == before
    assert one.counters == {"unknown_senders": 1}


@pytest.mark.parametrize("at", EVERYTHING)
@pytest.mark.parametrize("boot", [2, 4])
def test_another_start_of_a_board_introduces_itself_first(at: int, boot: int) -> None:
    one = ring_of(2, 3)
    before = one.view()
    effects = hear(one, replace(said(2)[at], incarnation=Incarnation(boot << 16)))
    assert [type(m) for m in messages(effects)] == [Hello]
    assert isinstance(effects[0], Redial)
    assert hear(one, replace(said(2)[at], incarnation=Incarnation(boot << 16)), 0.1) == []  # greeted a moment ago
    assert one.view() == before
    assert one.counters == {"unknown_senders": 2}


@pytest.mark.parametrize("at", EVERYTHING)
def test_a_revoked_board_is_not_heard_over_a_connection_that_it_still_has(at: int) -> None:
    one = ring_of(2, 3)
    one.handle(RemovalRequested(peer=peer(2), revoked=True), 0.0)
    before = one.view()
    for door in (False, True):
        assert hear(one, hello(2), door=door) == []
    assert hear(one, said(2)[at]) == []
    assert one.view() == before
    assert one.counters["revoked_boards"] == 3


def test_through_the_door_nobody_makes_a_member_a_stranger() -> None:
    one = ring_of(2)
    stranger = Stranger(sender=peer(2), version=2, name="b2")
    assert hear(one, stranger, door=True) == []
    assert status(one, 2) is ALIVE
    hear(one, stranger)
    assert status(one, 2) is Status.INCOMPATIBLE


def test_a_stranger_is_listed_and_never_talked_to_and_gone_after_a_while() -> None:
    one = ring_of(3)
    hear(one, Stranger(sender=peer(2), version=2, name="b2"), door=True)
    assert not [e for e in tick(one, 5.0) if isinstance(e, SendControl) and e.to.peer == peer(2)]
    assert "install the same release" in one.view().members[peer(2)].reason
    tick(one, PACE.stranger_s + 0.1)
    assert status(one, 2) is DEAD
    hear(one, hello(2), 61.0, door=True)
    hear(one, ping(2), 61.0)
    assert status(one, 2) is ALIVE
