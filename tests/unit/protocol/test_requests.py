"""What lies between the machines of one board: whose message it is, what came too early, and what is over."""

from dataclasses import replace

import pytest
from protocol_cases import (
    FACTS,
    MODEL,
    REQUEST,
    TOKENS,
    assign,
    changed,
    codes,
    names,
    peer,
    submission,
    view,
)

from peer.errors import Busy, Cancelled, DeadlineExceeded, LocalProtocolError, NoSuchModel, Refused
from peer.protocol.effects import Begin, Deliver, Effect, RunWhole, Send
from peer.protocol.events import (
    AnswerFailed,
    CancelRequested,
    CodesReady,
    ComputeFailed,
    Event,
    LogitsReady,
    MessageReceived,
    Mode,
    PeerLost,
    QueryDone,
    ShardDone,
    Submitted,
    TimerDue,
    ViewChanged,
)
from peer.protocol.messages import Assign, Cancel, DataMessage, Failed
from peer.protocol.requests import RequestLimits, Requests
from peer.protocol.types import (
    AttemptKey,
    Epoch,
    FailureReason,
    ModelId,
    RequestId,
    Shard,
    Status,
    Timing,
    TokenRange,
)

KEY = AttemptKey(REQUEST, 1)
LIMITS = RequestLimits(coordinated=2, participated=2, early_codes=4, early_bytes=300, early_s=2.0, remembered=3)


def machine(me: int = 1, boards: int = 3) -> Requests:
    return Requests(view=view(boards, me), models={MODEL: FACTS}, limits=LIMITS)


def handle(requests: Requests, *events: Event | DataMessage, now: float = 0.0) -> list[Effect]:
    effects: list[Effect] = []
    for event in events:
        is_message = not isinstance(event, Event)
        effects += requests.handle(MessageReceived(message=event) if is_message else event, now)  # type: ignore[arg-type]
        requests.check()
    return effects


def refusal(effects: list[Effect]) -> FailureReason:
    (send,) = effects
    assert isinstance(send, Send)
    assert isinstance(send.message, Failed)
    return send.message.reason


def cancel(attempt: int = 1) -> Cancel:
    return Cancel(request=REQUEST, attempt=attempt, epoch=Epoch(7))


@pytest.mark.parametrize(
    "event",
    [
        CodesReady(key=KEY, block=0, body=b""),
        QueryDone(key=KEY),
        ShardDone(key=KEY, timing=Timing(), body=b""),
        ComputeFailed(key=KEY, reason=FailureReason.STAGE_FAILED, blamed=(), detail=""),
        LogitsReady(request=REQUEST, timing=Timing(), body=b""),
        AnswerFailed(request=REQUEST, detail=""),
        CancelRequested(request=REQUEST),
        PeerLost(peer=peer(2)),
        PeerLost(peer=peer(1)),
        ViewChanged(view=view(2, 1)),
        TimerDue(),
    ],
)
def test_what_concerns_nothing_here_changes_nothing(event: Event) -> None:
    requests = machine()
    assert handle(requests, event) == []
    assert requests.idle
    assert requests.deadline() is None


def test_an_assignment_is_begun_once() -> None:
    requests = machine()
    assert names(handle(requests, assign(3))) == ["Begin"]
    assert handle(requests, assign(3)) == []
    handle(requests, cancel())
    assert handle(requests, assign(3)) == []
    assert requests.counters["duplicate_assignments"] == 2
    assert requests.idle


def test_a_cancel_that_overtakes_its_assignment_counts() -> None:
    requests = machine()
    assert handle(requests, cancel(), assign(3)) == []
    assert requests.idle


def test_a_newer_attempt_replaces_an_older_one_and_not_the_other_way_round() -> None:
    requests = machine()
    assert names(handle(requests, assign(3, attempt=1), assign(3, attempt=2))) == ["Begin", "Forget", "Begin"]
    requests = machine()
    assert names(handle(requests, assign(3, attempt=2), assign(3, attempt=1))) == ["Begin"]
    assert requests.counters["old_assignments"] == 1
    other = replace(assign(3), request=RequestId(5))
    assert names(handle(requests, other)) == ["Begin"]


def test_codes_may_come_before_their_assignment() -> None:
    requests = machine()
    handle(requests, codes(3, 0, 0), codes(3, 2, 0))
    assert requests.deadline() == 2.0
    effects = handle(requests, assign(3), CodesReady(key=KEY, block=0, body=codes(3, 1, 0).body), QueryDone(key=KEY))
    assert names(effects) == ["Begin", "Codes", "Codes", "Query", "Attend"]


def test_early_codes_are_given_up_after_a_while() -> None:
    requests = machine()
    handle(requests, codes(3, 0, 0))
    handle(requests, TimerDue(), now=1.9)
    assert requests.deadline() == 2.0
    handle(requests, TimerDue(), now=2.0)
    assert requests.deadline() is None
    assert requests.counters["early_codes_expired"] == 1


def test_early_codes_are_bounded_in_number_and_in_bytes() -> None:
    requests = machine()
    for number in range(6):
        handle(requests, replace(codes(3, 0, 0), request=RequestId(number)))
    assert requests.counters["early_codes_dropped"] == 2
    requests = machine()
    handle(requests, replace(codes(3, 0, 0), body=bytes(301)), replace(codes(3, 0, 0), body=bytes(300)))
    handle(requests, codes(3, 2, 0))
    assert requests.counters["early_codes_dropped"] == 2


def test_bad_early_codes_end_the_attempt_they_belong_to() -> None:
    requests = machine()
    handle(requests, replace(codes(3, 0, 0), body=b"x"), codes(3, 2, 0))
    assert names(handle(requests, assign(3))) == ["Begin", "Failed", "Forget"]
    assert requests.counters["late_codes"] == 1
    assert requests.idle


def test_late_codes_are_dropped_unseen() -> None:
    requests = machine()
    assert handle(requests, assign(3), cancel(), codes(3, 0, 0))[1:] != []
    assert requests.counters["late_codes"] == 1
    assert requests.deadline() is None


def test_memory_of_what_is_over_is_bounded() -> None:
    requests = machine()
    for number in range(20):
        handle(requests, Cancel(request=RequestId(number), attempt=1, epoch=Epoch(1)))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (replace(assign(3), model=ModelId("00" * 32)), FailureReason.UNKNOWN_MODEL),
        (replace(assign(3), codec="none"), FailureReason.UNKNOWN_MODEL),
        (
            replace(
                assign(3),
                shards=(*assign(3).shards[:2], Shard(peer=peer(2), tokens=TokenRange(start=11, stop=TOKENS + 1))),
            ),
            FailureReason.UNKNOWN_MODEL,
        ),
        (assign(4), FailureReason.UNKNOWN_PEER),
    ],
)
def test_refusals_have_names_and_are_final(wrong: Assign, reason: FailureReason) -> None:
    requests = machine()
    assert refusal(handle(requests, wrong)) is reason
    assert requests.idle
    assert handle(requests, wrong) == []


def test_a_busy_board_says_so() -> None:
    requests = machine()
    handle(requests, assign(3, request=RequestId(1)), assign(3, request=RequestId(2)))
    assert refusal(handle(requests, assign(3, request=RequestId(3)))) is FailureReason.BUSY


def test_an_assignment_for_others_is_not_ours() -> None:
    requests = machine(me=2)
    assert handle(requests, assign(2)) == []
    assert requests.counters["foreign_assignments"] == 1


def delivered(effects: list[Effect]) -> Deliver:
    (deliver,) = [effect for effect in effects if isinstance(effect, Deliver)]
    return deliver


def test_a_board_that_is_asked_too_much_refuses() -> None:
    requests = machine()
    for number in range(2):
        handle(requests, Submitted(submission=submission(request=RequestId(number))))
    effects = handle(requests, Submitted(submission=submission(request=RequestId(9))))
    assert isinstance(delivered(effects).result, Refused)


def test_an_unknown_model_is_an_answer_and_not_a_crash() -> None:
    effects = handle(machine(), Submitted(submission=submission(model=ModelId("00" * 32))))
    assert isinstance(delivered(effects).result, NoSuchModel)


def test_one_request_cannot_be_submitted_twice() -> None:
    requests = machine()
    handle(requests, Submitted(submission=submission()))
    with pytest.raises(LocalProtocolError):
        requests.handle(Submitted(submission=submission()), 0.0)


def own_messages(requests: Requests, effects: list[Effect]) -> list[Effect]:
    """Hand a board what it sends to itself."""
    mine = [e.message for e in effects if isinstance(e, Send) and e.to == requests.view.self_id]
    return handle(requests, *mine)


def test_requests_wait_their_turn_and_too_many_are_told_when_to_come_again() -> None:
    limits = replace(LIMITS, coordinated=4, active=2, waiting_bytes=len(submission().rows) * 2)
    requests = Requests(view=view(1), models={MODEL: FACTS}, limits=limits)
    asked = [submission(request=RequestId(i), mode=Mode.SINGLE, deadline_at=float(10 + i)) for i in range(1, 6)]
    effects = handle(requests, *(Submitted(submission=one) for one in asked[:4]))
    assert [e.request for e in effects if isinstance(e, RunWhole)] == [1, 2]
    (end,) = handle(requests, Submitted(submission=asked[4]))
    assert isinstance(end, Deliver)
    assert isinstance(end.result, Busy)
    assert end.result.retry_after_s > 0
    assert requests.deadline() == 11.0
    # The first that is through makes room for the one that has waited longest; who waits can be cancelled.
    effects = handle(requests, LogitsReady(request=RequestId(1), timing=Timing(), body=b"l"))
    assert [(type(e), e.request) for e in effects] == [(Deliver, 1), (RunWhole, 3)]  # type: ignore[union-attr]
    (end,) = handle(requests, CancelRequested(request=RequestId(4)))
    assert isinstance(end, Deliver)
    assert isinstance(end.result, Cancelled)
    assert not requests.idle
    # Nobody waits longer than its deadline.
    handle(requests, Submitted(submission=asked[4]))
    effects = requests.handle(TimerDue(), 15.0)
    ends = {e.request: type(e.result) for e in effects if isinstance(e, Deliver)}
    assert ends == dict.fromkeys([2, 3, 5], DeadlineExceeded)
    assert requests.idle


def test_a_request_whose_time_is_over_before_it_begins_says_so() -> None:
    requests = machine()
    effects = requests.handle(Submitted(submission=submission(deadline_at=5.0)), 5.5)
    assert isinstance(delivered(effects).result, DeadlineExceeded)
    assert requests.idle


def test_inputs_that_wait_are_bounded_in_bytes() -> None:
    limits = replace(LIMITS, coordinated=9, active=1, waiting_bytes=len(submission().rows))
    requests = Requests(view=view(1), models={MODEL: FACTS}, limits=limits)
    asked = [submission(request=RequestId(i), mode=Mode.SINGLE) for i in range(1, 4)]
    effects = handle(requests, *(Submitted(submission=one) for one in asked))
    assert [type(e) for e in effects] == [RunWhole, Deliver]
    assert isinstance(delivered(effects[1:]).result, Busy)


def test_a_busy_board_that_is_asked_itself_ends_with_a_word() -> None:
    requests = machine()
    handle(requests, assign(3, request=RequestId(1)), assign(3, request=RequestId(2)))
    effects = own_messages(requests, handle(requests, Submitted(submission=submission())))
    assert refusal(effects) is FailureReason.BUSY
    effects = own_messages(requests, effects)
    assert isinstance(delivered(effects).result, Refused)
    assert "busy" in str(delivered(effects).result)


@pytest.mark.parametrize(
    "after",
    [
        changed(view(3, 1), 2, status=Status.DEAD),
        changed(view(3, 1), 2, status=Status.SUSPECT),
        changed(view(3, 1), 2, incarnation=2),
        view(2, 1),
    ],
)
def test_a_board_that_the_view_loses_ends_the_attempt(after: object) -> None:
    requests = machine()
    handle(requests, assign(3), Submitted(submission=submission(request=RequestId(77))))
    effects = handle(requests, ViewChanged(view=after))  # type: ignore[arg-type]
    words = names(effects)
    assert words.count("Cancel") == 3
    assert words.count("Assign") == 2
    assert words[-2:] == ["Failed", "Forget"]
    assert handle(requests, ViewChanged(view=after)) == []  # type: ignore[arg-type]


def test_a_board_that_leaves_finishes_what_it_has_begun() -> None:
    requests = machine()
    handle(requests, assign(3))
    assert handle(requests, ViewChanged(view=changed(view(3, 1), 2, status=Status.LEFT))) == []
    assert names(handle(requests, PeerLost(peer=peer(2)))) == ["Failed", "Forget"]


def test_who_was_suspected_before_and_still_is_ends_nothing() -> None:
    requests = machine()
    suspected = changed(view(3, 1), 2, status=Status.SUSPECT)
    handle(requests, ViewChanged(view=suspected))
    handle(requests, assign(3))
    assert handle(requests, ViewChanged(view=suspected)) == []


def test_a_request_alone_from_start_to_end() -> None:
    requests = machine(boards=2)
    effects = handle(requests, Submitted(submission=submission(mode=Mode.SINGLE)))
    assert [type(effect) for effect in effects] == [RunWhole]
    assert requests.deadline() == 100.0
    effects = handle(requests, LogitsReady(request=REQUEST, timing=Timing(), body=b"l"))
    assert names(effects) == ["Deliver"]
    assert requests.idle


def test_begin_is_given_the_whole_assignment() -> None:
    (begin,) = handle(machine(), assign(3))
    assert begin == Begin(key=KEY, assign=assign(3), me=1)


def test_a_board_cannot_lose_itself() -> None:
    requests = machine()
    handle(requests, assign(3), Submitted(submission=submission(request=RequestId(77))))
    assert handle(requests, PeerLost(peer=requests.view.self_id)) == []
