"""What a board may not say for another: dropped and counted, and the request goes on as if nothing had come."""

from dataclasses import replace

import pytest
from protocol_cases import FACTS, MODEL, REQUEST, assign, codes, failed, feature, names, peer, submission, view

from peer.protocol.effects import Deliver, Effect, Send
from peer.protocol.events import CodesReady, MessageReceived, Mode, Submitted
from peer.protocol.messages import Assign, Cancel, DataMessage
from peer.protocol.requests import RequestLimits, Requests
from peer.protocol.types import AttemptKey, Epoch, Exchange

KEY = AttemptKey(REQUEST, 1)
BOTH = pytest.mark.parametrize("exchange", list(Exchange))


def machine(me: int, boards: int = 4) -> Requests:
    return Requests(view=view(boards, me), models={MODEL: FACTS}, limits=RequestLimits(remembered=3))


def say(requests: Requests, message: DataMessage, sender: int | None) -> list[Effect]:
    key = None if sender is None else peer(sender)
    effects = requests.handle(MessageReceived(message=message, sender=key), 0.0)
    requests.check()
    return effects


def cancel(attempt: int = 1) -> Cancel:
    return Cancel(request=REQUEST, attempt=attempt, epoch=Epoch(7))


@pytest.mark.parametrize("coordinator", range(4))
@pytest.mark.parametrize("sender", range(4))
def test_only_the_coordinator_assigns_its_shards(coordinator: int, sender: int) -> None:
    requests = machine(1)
    effects = say(requests, assign(4, coordinator=coordinator), sender)
    assert names(effects) == (["Begin"] if sender == coordinator else [])
    assert requests.counters["forged"] == (sender != coordinator)


def test_without_encryption_nobody_has_a_key_to_be_checked() -> None:
    requests = machine(1)
    assert names(say(requests, assign(4), None)) == ["Begin"]
    say(requests, codes(4, 0, 0), None)
    assert names(say(requests, cancel(), None)) == ["Forget"]
    assert requests.counters["forged"] == 0


@pytest.mark.parametrize("attempt", [1, 2])
def test_another_board_cannot_take_over_a_request(attempt: int) -> None:
    requests = machine(1)
    say(requests, assign(4), 0)
    assert say(requests, assign(4, coordinator=3, attempt=attempt), 3) == []
    assert requests.counters["forged"] == 1
    assert names(say(requests, assign(4, attempt=2), 0)) == ["Forget", "Begin"]


@BOTH
@pytest.mark.parametrize("sender", range(4))
@pytest.mark.parametrize("origin", [0, 2, 3])
def test_codes_come_from_who_holds_them_or_from_the_one_before_in_a_ring(
    exchange: Exchange, sender: int, origin: int
) -> None:
    requests = machine(1)
    say(requests, assign(4, exchange=exchange), 0)
    requests.handle(CodesReady(key=KEY, block=0, body=b"c"), 0.0)
    bringer = origin if exchange is Exchange.DIRECT else 0
    say(requests, codes(4, origin, 0), sender)
    assert requests.counters["forged"] == (sender != bringer)


@BOTH
def test_codes_that_come_before_their_assignment_are_checked_when_it_is_there(exchange: Exchange) -> None:
    requests = machine(1)
    say(requests, codes(4, 3, 0), 2)  # in a direct exchange from 3, in a ring from 0
    assert requests.counters["forged"] == 0
    say(requests, assign(4, exchange=exchange), 0)
    assert requests.counters["forged"] == 1


@BOTH
def test_nobody_brings_a_board_its_own_codes_or_those_of_no_shard(exchange: Exchange) -> None:
    requests = machine(1)
    say(requests, assign(4, exchange=exchange), 0)
    for origin in (1, 9):
        message = replace(codes(4, 0, 0), origin=origin)
        for sender in range(4):
            say(requests, message, sender)
    assert requests.counters["forged"] == 8


@pytest.mark.parametrize("sender", range(4))
def test_only_the_coordinator_cancels(sender: int) -> None:
    requests = machine(1)
    say(requests, assign(4, coordinator=2), 2)
    assert names(say(requests, cancel(), sender)) == (["Forget"] if sender == 2 else [])
    assert requests.idle == (sender == 2)
    assert requests.counters["forged"] == (sender != 2)


@pytest.mark.parametrize("sender", range(4))
def test_a_cancel_ahead_of_its_assignment_counts_only_from_the_coordinator(sender: int) -> None:
    requests = machine(1)
    say(requests, codes(4, 0, 0), 0)
    assert say(requests, cancel(), sender) == []
    effects = say(requests, assign(4, coordinator=2), 2)
    assert names(effects) == ([] if sender == 2 else ["Begin"])


def test_cancels_of_nothing_are_not_kept_without_end() -> None:
    requests = machine(1)
    for attempt in range(1, 99):
        say(requests, cancel(attempt), 3)
    assert names(say(requests, assign(4), 0)) == ["Begin"]


@BOTH
@pytest.mark.parametrize("sender", range(4))
@pytest.mark.parametrize("origin", [1, 2, 3])
def test_a_result_or_a_failure_is_its_own_boards_to_report(exchange: Exchange, sender: int, origin: int) -> None:
    for kind in ("feature", "failed"):
        requests = machine(0)
        asked = submission(mode=Mode.SEQUENCE, exchange=exchange, boards=4)
        effects = requests.handle(Submitted(submission=asked), 0.0)
        epoch = next(e.message.epoch for e in effects if isinstance(e, Send) and isinstance(e.message, Assign))
        message = feature(origin, epoch=epoch) if kind == "feature" else failed(origin, epoch=epoch, missing=(2,))
        after = say(requests, message, sender)
        assert requests.counters["forged"] == (sender != origin)
        assert not any(isinstance(e, Deliver) for e in after)
        if sender != origin:
            assert after == []
