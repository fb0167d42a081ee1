"""One membership machine, message by message: who may say what, what is believed, and what is answered."""

from dataclasses import replace
from random import Random

import pytest

from peer.protocol.control_events import (
    Admit,
    AdoptToken,
    ControlEffect,
    ControlReceived,
    KeepRevoked,
    Knock,
    LeaveRequested,
    LinkBroke,
    Publish,
    Redial,
    RemovalRequested,
    SendControl,
    Sighted,
    TimerDue,
    TokenChanged,
)
from peer.protocol.liveness import Pace
from peer.protocol.membership import Membership
from peer.protocol.messages import (
    ControlMessage,
    Goodbye,
    Hello,
    Peers,
    Ping,
    PingRequest,
    Pong,
    Removed,
    Rumour,
    Stranger,
    TokenRotated,
    Vouch,
)
from peer.protocol.roster import MAX_MEMBERS
from peer.protocol.types import Address, Endpoint, Incarnation, Lock, Member, ModelId, PeerId, Status, peer_id

MODEL, OTHER = ModelId("5a" * 32), ModelId("77" * 32)
PACE = Pace()
ALIVE, SUSPECT, DEAD, LEFT = Status.ALIVE, Status.SUSPECT, Status.DEAD, Status.LEFT
BOOT = 3 << 16  # of every board here


def key(index: int) -> bytes:
    return index.to_bytes(32, "big")


def peer(index: int) -> PeerId:
    return peer_id(key(index))


def board(index: int = 1, incarnation: int = BOOT) -> Member:
    return Member(
        peer=peer(index),
        name=f"b{index}",
        endpoint=Endpoint(host=f"h{index}", port=7411),
        public_key=key(index),
        incarnation=Incarnation(incarnation),
        status=ALIVE,
        models=frozenset({MODEL}),
    )


def machine(*seeds: Address, remembered: tuple[Member, ...] = (), lock: Lock | None = None) -> Membership:
    return Membership(me=board(1), seeds=seeds, remembered=remembered, lock=lock, pace=PACE, rng=Random(1), now=0.0)


def hello(
    index: int, *, incarnation: int = BOOT, answer: bool = False, host: str = "", models: tuple[ModelId, ...] = (MODEL,)
) -> Hello:
    return Hello(
        sender=peer(index),
        public_key=key(index),
        incarnation=Incarnation(incarnation),
        name=f"b{index}",
        endpoint=Endpoint(host=host, port=7411),
        models=models,
        answer=answer,
    )


def ping(index: int, incarnation: int = BOOT) -> Ping:
    return Ping(sender=peer(index), incarnation=Incarnation(incarnation), sequence=5, speed=2.0)


def rumour(index: int, about: int, status: Status, incarnation: int = BOOT) -> Rumour:
    return Rumour(
        sender=peer(index),
        incarnation=Incarnation(BOOT),
        about=peer(about),
        about_incarnation=Incarnation(incarnation),
        status=status,
    )


def said(index: int) -> list[ControlMessage]:
    """One of everything a member may say."""
    who, incarnation = peer(index), Incarnation(BOOT)
    return [
        ping(index),
        Pong(sender=who, incarnation=incarnation, sequence=1, stuck_ms=0),
        PingRequest(sender=who, incarnation=incarnation, target=peer(3), sequence=1),
        Vouch(sender=who, incarnation=incarnation, target=peer(3), sequence=1),
        rumour(index, 3, DEAD),
        Goodbye(sender=who, incarnation=incarnation),
        Peers(sender=who, incarnation=incarnation, addresses=(Address(host="evil", port=7411),)),
        TokenRotated(sender=who, incarnation=incarnation, generation=9, token=bytes(32)),
        Removed(sender=who, incarnation=incarnation, about=peer(3), revoked=True),
    ]


EVERYTHING = range(len(said(2)))


def hear(
    one: Membership, message: ControlMessage, now: float = 0.0, *, key_of: int | None = None, door: bool = False
) -> list[ControlEffect]:
    """A message under its sender's key, unless another's is named, or through the door."""
    sender = None if door else message.sender if key_of is None else peer(key_of)
    source = next((f"h{i}" for i in range(1, 12) if peer(i) == message.sender), "h?")
    effects = one.handle(ControlReceived(message=message, sender=sender, source=source, door=door), now)
    one.check()
    return effects


def tick(one: Membership, now: float) -> list[ControlEffect]:
    """Every timer until `now`, none of them late."""
    effects = []
    while (at := one.deadline()) is not None and at <= now:
        effects += one.handle(TimerDue(), at)
        one.check()
    return effects


def messages(effects: list[ControlEffect], kind: type = object) -> list[ControlMessage]:
    return [e.message for e in effects if isinstance(e, SendControl | Knock) and isinstance(e.message, kind)]


def status(one: Membership, index: int) -> Status | None:
    member = one.view().members.get(peer(index))
    return member.status if member else None


def ring_of(*others: int, lock: Lock | None = None) -> Membership:
    """A machine that holds `others` alive."""
    one = machine(lock=lock)
    for index in others:
        hear(one, hello(index, answer=True))
        assert status(one, index) is ALIVE
    return one


# Coming in.


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


# Who may say what.


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


# The merge rule, row by row.

LATER, EARLIER = BOOT + 1, BOOT - 1
NEXT_BOOT = 4 << 16
ROWS = [
    # about 3, which is `known`; news from 2                              -> status, incarnation
    (ALIVE, ALIVE, LATER, ALIVE, LATER),
    (ALIVE, SUSPECT, BOOT, SUSPECT, BOOT),
    (ALIVE, SUSPECT, LATER, SUSPECT, LATER),
    (ALIVE, DEAD, BOOT, DEAD, BOOT),
    (ALIVE, DEAD, LATER, DEAD, LATER),
    (SUSPECT, ALIVE, BOOT, SUSPECT, BOOT),
    (SUSPECT, ALIVE, LATER, ALIVE, LATER),
    (SUSPECT, SUSPECT, BOOT, SUSPECT, BOOT),
    (SUSPECT, DEAD, BOOT, DEAD, BOOT),
    (DEAD, ALIVE, BOOT, DEAD, BOOT),
    (DEAD, ALIVE, LATER, ALIVE, LATER),
    (DEAD, SUSPECT, LATER, DEAD, BOOT),
    (LEFT, ALIVE, LATER, LEFT, BOOT),
    (LEFT, SUSPECT, LATER, LEFT, BOOT),
    (LEFT, DEAD, LATER, LEFT, BOOT),
    *(
        (known, news, NEXT_BOOT, known, BOOT)
        for known in (ALIVE, SUSPECT, DEAD, LEFT)
        for news in (ALIVE, SUSPECT, DEAD)
    ),
    *((known, news, 2 << 16, known, BOOT) for known in (ALIVE, SUSPECT, DEAD, LEFT) for news in (ALIVE, SUSPECT, DEAD)),
]


def known_as(known: Status) -> Membership:
    one = ring_of(2, 3, 4)
    match known:
        case Status.SUSPECT | Status.DEAD:
            hear(one, rumour(4, 3, known))
        case Status.LEFT:
            hear(one, Goodbye(sender=peer(3), incarnation=Incarnation(BOOT)))
    assert status(one, 3) is known
    return one


@pytest.mark.parametrize(("known", "news", "incarnation", "then", "holds"), ROWS)
def test_news_about_a_third_board(known: Status, news: Status, incarnation: int, then: Status, holds: int) -> None:
    one = known_as(known)
    hear(one, rumour(2, 3, news, incarnation))
    member = one.view().members[peer(3)]
    assert (member.status, member.incarnation) == (then, holds)


@pytest.mark.parametrize("news", [SUSPECT, DEAD])
def test_old_accusations_are_dropped_and_the_accuser_hears_what_is_newer(news: Status) -> None:
    one = ring_of(2, 3)
    hear(one, rumour(3, 3, ALIVE, LATER))
    (answer,) = messages(hear(one, rumour(2, 3, news)))
    assert answer == rumour(1, 3, ALIVE, LATER)
    assert status(one, 3) is ALIVE


@pytest.mark.parametrize("news", [ALIVE, SUSPECT, DEAD])
def test_news_about_boards_that_are_not_listed_or_still_joining_is_dropped(news: Status) -> None:
    one = ring_of(2)
    assert hear(one, rumour(2, 9, news)) == []
    hear(one, hello(3), door=True)
    assert hear(one, rumour(2, 3, news, LATER)) == []
    assert status(one, 3) is SUSPECT


def test_accusations_by_who_is_doubted_itself_are_dropped() -> None:
    one = ring_of(2, 3, 4)
    hear(one, rumour(4, 2, SUSPECT))
    assert hear(one, rumour(2, 3, DEAD)) == []
    assert status(one, 3) is ALIVE


# Refutation.


@pytest.mark.parametrize("news", [SUSPECT, DEAD])
def test_what_is_said_about_oneself_is_refuted_to_everybody(news: Status) -> None:
    one = ring_of(2, 3)
    effects = hear(one, rumour(2, 1, news))
    assert {e.to.peer for e in effects if isinstance(e, SendControl)} == {peer(2), peer(3)}
    assert set(messages(effects)) == {replace(rumour(1, 1, ALIVE, LATER), incarnation=Incarnation(LATER))}
    assert hear(one, rumour(3, 1, news)) == []  # refuted already
    assert hear(one, rumour(2, 1, ALIVE, LATER)) == []


def test_refutations_never_become_another_start() -> None:
    one = ring_of(2)
    assert hear(one, rumour(2, 1, DEAD, BOOT | 0xFFFF)) == []
    assert one.view().members[peer(1)].incarnation == BOOT


def test_who_is_accused_hears_of_it_when_it_pings_and_its_next_word_clears_it() -> None:
    for news in (SUSPECT, DEAD):
        one = ring_of(2, 3)
        hear(one, rumour(2, 3, news))
        (told,) = messages(hear(one, ping(3)), Rumour)
        assert isinstance(told, Rumour)
        assert (told.about, told.status) == (peer(3), news)
        assert status(one, 3) is news
        hear(one, ping(3, LATER))
        assert status(one, 3) is ALIVE


def test_a_refutation_is_passed_on_to_who_accused() -> None:
    one = ring_of(2, 3)
    hear(one, rumour(2, 3, SUSPECT))
    effects = hear(one, rumour(3, 3, ALIVE, LATER))
    assert [(e.to.peer, e.message) for e in effects if isinstance(e, SendControl)] == [
        (peer(2), rumour(1, 3, ALIVE, LATER))
    ]


def test_confirmed_suspicions_die_sooner() -> None:
    alone, confirmed = ring_of(2, 3, 4, 5), ring_of(2, 3, 4, 5)
    hear(alone, rumour(2, 3, SUSPECT))
    for accuser in (2, 4, 5):
        hear(confirmed, rumour(accuser, 3, SUSPECT))
    assert died_at(confirmed, 3) < died_at(alone, 3) <= PACE.suspect_longest_s + 0.1


def died_at(one: Membership, index: int) -> float:
    """When `index` is given up while all others answer every ping at once."""
    while status(one, index) is not DEAD:
        now = one.deadline()
        assert now is not None
        for effect in one.handle(TimerDue(), now):
            if isinstance(effect, SendControl) and isinstance(effect.message, Ping) and effect.to.peer != peer(index):
                hear(one, pong_of(effect), now)
    return now


def pong_of(effect: SendControl, stuck_ms: int = 0) -> Pong:
    assert isinstance(effect.message, Ping)
    return Pong(
        sender=effect.to.peer, incarnation=effect.to.incarnation, sequence=effect.message.sequence, stuck_ms=stuck_ms
    )


# Probes.


def pings(effects: list[ControlEffect]) -> dict[PeerId, SendControl]:
    return {e.to.peer: e for e in effects if isinstance(e, SendControl) and isinstance(e.message, Ping)}


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


# Leaving, forgetting, tokens.


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
