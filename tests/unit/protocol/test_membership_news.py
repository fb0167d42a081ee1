"""What is believed of a third board, row by row of the merge rule, and how the accused refute it."""

from dataclasses import replace

import pytest
from membership_cases import (
    ALIVE,
    BOOT,
    DEAD,
    LATER,
    LEFT,
    NEXT_BOOT,
    PACE,
    SUSPECT,
    died_at,
    hear,
    hello,
    messages,
    peer,
    ping,
    ring_of,
    rumour,
    status,
)

from peer.protocol.control_events import SendControl
from peer.protocol.membership import Membership
from peer.protocol.messages import Goodbye, Rumour
from peer.protocol.types import Incarnation, Status

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
