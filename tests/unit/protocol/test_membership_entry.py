"""How a board comes in: knocks, greetings, other starts, copies, boards without a common model."""

from dataclasses import replace

import pytest
from membership_cases import (
    ALIVE,
    BOOT,
    DEAD,
    MODEL,
    OTHER,
    PACE,
    SUSPECT,
    board,
    hear,
    hello,
    key,
    machine,
    messages,
    peer,
    ping,
    ring_of,
    rumour,
    status,
    tick,
)

from peer.protocol.control_events import Admit, Knock, Publish, Redial, SendControl
from peer.protocol.messages import Hello, Peers, Ping, Pong, TokenRotated
from peer.protocol.types import Address, Lock, Status


def test_a_knock_is_answered_at_the_knockers_door_and_nothing_else_is_said_before_it_let_us_in() -> None:
    one = machine(Address(host="h2", port=7411))
    knocks = [e for e in tick(one, 0.0) if isinstance(e, Knock)]
    assert [k.at.host for k in knocks] == ["h2"]
    effects = hear(one, hello(2), door=True)
    assert isinstance(effects[0], Admit)
    assert effects[0].keys == {key(2)} == one.admitted()
    (answer,) = (e for e in effects if isinstance(e, SendControl | Knock))
    assert isinstance(answer, Knock)
    assert answer.message == replace(hello(1, host="h1"), answer=True)
    assert status(one, 2) is SUSPECT
    assert not messages(tick(one, 1.0), Ping)
    effects = hear(one, ping(2), 1.0)
    assert status(one, 2) is ALIVE
    assert {type(m) for m in messages(effects)} == {Ping, Pong}
    assert any(isinstance(e, Publish) for e in effects)
    assert one.view().members[peer(2)].speed == 2.0


def test_an_answer_at_our_door_is_greeted_over_a_fresh_connection_and_a_member_after_a_word_under_its_key() -> None:
    one = machine()
    effects = hear(one, hello(2, answer=True), door=True)
    assert [type(e) for e in effects] == [Admit, Redial, SendControl, Publish]
    assert messages(effects, Hello) == [hello(1, host="h1")]
    assert status(one, 2) is SUSPECT  # whoever holds the token can answer in any name
    effects = hear(one, hello(2, answer=True))
    assert [type(e) for e in effects if not isinstance(e, Publish)] == [Redial, SendControl]
    assert status(one, 2) is ALIVE


@pytest.mark.parametrize("answer", [False, True])
@pytest.mark.parametrize("change", [{"incarnation": BOOT + (5 << 16)}, {"host": "elsewhere"}])
def test_a_greeting_at_the_door_in_a_members_name_changes_nothing_until_it_says_so_under_its_key(
    change: dict[str, object], answer: bool
) -> None:
    one = ring_of(2)
    before = one.view().members[peer(2)]
    forged = hello(2, answer=answer, **change)  # type: ignore[arg-type]  # fields of hello
    effects = hear(one, forged, 1.0, door=True)
    assert one.view().members[peer(2)] == before
    sent = [e for e in effects if isinstance(e, SendControl)]
    assert [(type(e.message), e.to.endpoint.host, e.to.public_key) for e in sent] == [
        (Hello, change.get("host", "h2"), key(2))
    ]
    assert sum(isinstance(e, Knock) for e in effects) == (not answer)
    assert not messages(hear(one, forged, 1.1, door=True), Ping)
    assert not [e for e in hear(one, forged, 1.15, door=True) if isinstance(e, SendControl | Redial)]  # not every time
    hear(one, replace(forged, answer=True), 1.2)
    now = one.view().members[peer(2)]
    assert (now.incarnation, now.endpoint.host) == (forged.incarnation, change.get("host", "h2"))
    assert now.status is ALIVE


def test_a_greeting_in_the_name_of_a_board_not_met_yet_does_not_lock_it_out() -> None:
    one = machine()
    hear(one, hello(2, incarnation=BOOT + (9 << 16), host="elsewhere"), door=True)
    hear(one, hello(2), 0.1, door=True)
    assert one.view().members[peer(2)].endpoint.host == "h2"
    hear(one, hello(2, incarnation=BOOT + (9 << 16), host="elsewhere"), 0.2, door=True)
    hear(one, hello(2), 0.3)
    assert status(one, 2) is ALIVE
    assert one.view().members[peer(2)].endpoint.host == "h2"


def test_who_knocks_and_never_answers_is_dead_after_a_while_and_tried_again() -> None:
    one = machine()
    hear(one, hello(2), door=True)
    tick(one, PACE.joining_s + 0.01)
    assert status(one, 2) is DEAD
    assert "does not answer at its own door" in one.view().members[peer(2)].reason
    effects = tick(one, PACE.joining_s + PACE.regreet_s + 0.01)
    assert [type(e) for e in effects if not isinstance(e, Publish)] == [Redial, SendControl, Knock]
    hear(one, hello(2), 7.0, door=True)
    hear(one, hello(2, answer=True), 7.1)
    assert status(one, 2) is ALIVE


def test_who_comes_gets_the_other_doors_and_the_token() -> None:
    one = ring_of(2, 3, lock=Lock(token=bytes(32), generation=1))
    effects = hear(one, hello(4, answer=True))
    (peers,) = messages(effects, Peers)
    assert isinstance(peers, Peers)
    assert {a.host for a in peers.addresses} == {"h2", "h3"}
    assert len(messages(effects, TokenRotated)) == 1
    assert not messages(hear(one, hello(4, answer=True), door=True), Peers)


def test_known_boards_are_greeted_under_their_own_key_and_at_their_door() -> None:
    known = replace(board(2), status=DEAD)
    one = machine(remembered=(known, replace(board(1), status=DEAD)))
    assert one.admitted() == {key(2)}
    effects = tick(one, 0.0)
    assert [type(e) for e in effects] == [Redial, SendControl, Knock]
    effects = hear(one, hello(2, answer=True))
    assert status(one, 2) is ALIVE
    assert messages(effects, Ping)


def test_long_dead_boards_are_greeted_less_often() -> None:
    one = machine(remembered=(board(2),))
    early = len([e for e in tick(one, 60.0) if isinstance(e, Knock)])
    late = len([e for e in tick(one, 120.0) if isinstance(e, Knock)])
    assert 35 <= early <= 45
    assert 5 <= late <= 8


def test_another_start_replaces_the_one_before_and_a_late_packet_does_not() -> None:
    one = ring_of(2)
    assert messages(hear(one, ping(2, 4 << 16)), Hello)  # not known as it is now: asked to introduce itself
    hear(one, hello(2, incarnation=4 << 16))
    assert status(one, 2) is ALIVE
    assert hear(one, hello(2)) == []
    assert one.counters == {"unknown_senders": 1, "old_incarnations": 1}
    assert one.view().members[peer(2)].incarnation == 4 << 16


def test_another_address_is_learnt_from_a_hello() -> None:
    one = ring_of(2)
    hear(one, hello(2, host="elsewhere"))
    assert one.view().members[peer(2)].endpoint.host == "elsewhere"
    assert status(one, 2) is ALIVE


def test_boards_without_a_common_model_are_listed_with_the_reason_until_they_have_one() -> None:
    one = machine()
    hear(one, hello(2, models=(OTHER,)), door=True)
    hear(one, ping(2))
    assert status(one, 2) is Status.INCOMPATIBLE
    assert "same model folder" in one.view().members[peer(2)].reason
    hear(one, hello(2, models=(OTHER, MODEL)))
    assert status(one, 2) is ALIVE
    hear(one, hello(3, models=()), door=True)
    hear(one, ping(3))
    assert status(one, 3) is ALIVE  # it can fetch one


def test_ones_own_words_are_dropped_and_a_copy_of_this_board_is_counted() -> None:
    one = ring_of(2)
    assert hear(one, hello(1)) == []
    assert one.counters == {}
    assert hear(one, hello(1, incarnation=9 << 16), door=True) == []
    assert hear(one, rumour(2, 1, DEAD, 9 << 16)) == []
    assert one.counters == {"own_id_seen_elsewhere": 2}
