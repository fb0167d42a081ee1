"""Spans: what is remembered, what is told to whom, and how two clocks are put on one."""

import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_cases import MODEL, REQUEST, SAMPLES, peer

from peer.errors import BadFrame
from peer.protocol import spans as spans_module
from peer.protocol import wire
from peer.protocol.clocks import DRIFT, OffsetBounds, from_round_trip, narrowed
from peer.protocol.messages import Assign, Errand
from peer.protocol.span import MAX_SPANS, Span, SpanKind
from peer.protocol.spans import SpanLog
from peer.protocol.trace_messages import Spans, SpansRequest
from peer.protocol.tracing import Collected, CollectSpans, Tracing
from peer.protocol.types import AttemptKey, RequestId, Shard, TokenRange

ASSIGN = SAMPLES["assign"]
assert isinstance(ASSIGN, Assign)
SHARDS = tuple(Shard(peer=peer(i), tokens=TokenRange(start=i * 4, stop=i * 4 + 4)) for i in range(3))
KEY = AttemptKey(REQUEST, 1)


def assign(request: int = REQUEST, attempt: int = 1) -> Assign:
    assert isinstance(ASSIGN, Assign)
    return replace(ASSIGN, request=RequestId(request), attempt=attempt, shards=SHARDS, coordinator=0)


def log(me: int = 0, request: int = REQUEST, attempt: int = 1) -> SpanLog:
    made = SpanLog()
    made.begin(AttemptKey(RequestId(request), attempt), assign(request, attempt), me, 10.0)
    return made


def kinds(made: SpanLog) -> list[SpanKind]:
    return [span.kind for attempt in made.find(REQUEST) for span in attempt.spans]


def test_an_attempt_is_remembered_with_who_was_in_it() -> None:
    made = log(me=1)
    made.own(KEY, SpanKind.ENCODE, 0, 10.1, 10.2)
    made.note(KEY, Span(SpanKind.CAME, 0, 2, 10.3, 10.3))
    (attempt,) = made.find(REQUEST)
    assert (attempt.shards, attempt.me, attempt.coordinator, attempt.model) == (SHARDS, 1, 0, assign().model)
    assert attempt.spans == (Span(SpanKind.ENCODE, 0, 1, 10.1, 10.2), Span(SpanKind.CAME, 0, 2, 10.3, 10.3))
    assert made.latest() == REQUEST
    assert made.find(RequestId(1)) == ()


def test_own_codes_going_out_are_noted_and_those_passed_on_are_not() -> None:
    made = log(me=1)
    made.sent(KEY, 0, 1, 10.0)
    made.sent(KEY, 0, 2, 10.25)
    assert made.find(REQUEST)[0].spans == (Span(SpanKind.SENT, 0, 1, 10.0, 10.0),)


def test_waiting_for_its_turn_belongs_to_the_first_attempt() -> None:
    made = SpanLog()
    made.submitted(REQUEST, 9.0)
    made.begin(KEY, assign(), 0, 10.0)
    made.begin(AttemptKey(REQUEST, 2), assign(attempt=2), 0, 12.0)
    made.whole(AttemptKey(REQUEST, 0), MODEL, 1, 13.0, 14.0)
    made.head(REQUEST, 14.0, 14.1)
    assert kinds(made) == [SpanKind.QUEUED, SpanKind.WHOLE, SpanKind.HEAD]
    assert made.find(REQUEST)[0].spans == (Span(SpanKind.QUEUED, 0, 0, 9.0, 10.0),)
    assert [attempt.key.attempt for attempt in made.find(REQUEST)] == [1, 2, 0]


def test_a_whole_request_on_another_board_is_asked_of_that_board() -> None:
    errand = SAMPLES["errand"]
    assert isinstance(errand, Errand)
    here, there = SpanLog(), SpanLog()
    key = AttemptKey(errand.request, errand.attempt)
    here.submitted(errand.request, 9.0)
    here.errand(key, errand, peer(2), 10.0)
    there.whole(key, errand.model, errand.batch, 10.1, 10.4)
    asker, helper = Tracing(me=peer(0), log=here), Tracing(me=peer(2), log=there)
    own, ((to, question),) = asker.ask(CollectSpans(sequence=1, request=None), 11.0)
    assert (own.attempts[0].codec, own.attempts[0].spans[0].kind, to) == ("", SpanKind.QUEUED, peer(2))
    answer = helper.received(question, peer(0), 11.0)
    assert isinstance(answer, Spans)
    assert answer.spans == ((errand.attempt, Span(SpanKind.WHOLE, 0, 0, 10.1, 10.4)),)


def test_marks_of_attempts_that_are_not_known_are_dropped() -> None:
    made = log()
    made.note(AttemptKey(REQUEST, 9), Span(SpanKind.CAME, 0, 1, 1.0, 1.0))
    made.own(AttemptKey(REQUEST, 9), SpanKind.QUERY, 0, 1.0, 1.0)
    made.sent(AttemptKey(REQUEST, 9), 0, 0, 1.0)
    made.head(RequestId(9), 1.0, 1.0)
    assert made.marks == 0


def test_memory_has_bounds() -> None:
    made = SpanLog()
    for request in range(300):
        made.submitted(RequestId(request), 0.0)
    for request in range(1000, 1010):
        made.begin(AttemptKey(RequestId(request), 1), assign(request), 0, 0.0)
        for block in range(MAX_SPANS + 10):
            made.own(AttemptKey(RequestId(request), 1), SpanKind.QUERY, block, 0.0, 0.0)
        # As it is when the next attempt begins: what was over the bound is gone then.
        assert made.marks <= spans_module._MARKS + MAX_SPANS
        assert len(made.find(RequestId(request))[0].spans) == MAX_SPANS
    assert made.find(RequestId(1000)) == ()
    many = SpanLog()
    for request in range(200):
        many.begin(AttemptKey(RequestId(request), 1), assign(request), 0, 0.0)
    assert sum(bool(many.find(RequestId(request))) for request in range(200)) == spans_module._ATTEMPTS


def test_inputs_are_not_kept() -> None:
    made, body = SpanLog(), bytes(10_000)
    held = sys.getrefcount(body)
    made.begin(KEY, replace(assign(), body=body), 0, 1.0)
    assert made.find(REQUEST)
    assert sys.getrefcount(body) == held


def test_a_question_goes_to_every_other_board_and_its_answer_comes_back_once() -> None:
    asker = Tracing(me=peer(0), log=log(me=0))
    others = {i: Tracing(me=peer(i), log=log(me=i)) for i in (1, 2)}
    own, questions = asker.ask(CollectSpans(sequence=7, request=None), 20.0)
    assert (own.asked, len(own.attempts)) == ((peer(1), peer(2)), 1)
    assert [to for to, _ in questions] == [peer(1), peer(2)]
    for i, (_, question) in zip((1, 2), questions, strict=True):
        answer = others[i].received(question, peer(0), 500.0)
        assert isinstance(answer, Spans)
        assert (answer.asked_us, answer.received_us) == (20_000_000, 500_000_000)
        arrived = wire.decode(wire.encode(answer))
        assert arrived == answer
        assert asker.received(answer, peer(i), 20.5) == Collected(answer=answer, came_s=20.5)
        assert asker.received(answer, peer(i), 20.6) is None, "twice"
    assert asker.refused == 2


def test_answers_nobody_asked_for_and_words_in_anothers_name_are_dropped() -> None:
    asker = Tracing(me=peer(0), log=log(me=0))
    unasked = SAMPLES["spans"]
    question = SAMPLES["spans request"]
    assert isinstance(unasked, Spans)
    assert isinstance(question, SpansRequest)
    assert asker.received(unasked, unasked.sender, 1.0) is None
    assert asker.received(question, peer(2), 1.0) is None, "its sender's key is another board's"
    assert asker.received(replace(unasked, sender=peer(1)), peer(2), 1.0) is None
    assert asker.refused == 3
    # Without encryption, on loopback, nobody is known by a key.
    assert isinstance(asker.received(question, None, 1.0), Spans)


def test_a_flood_of_questions_is_not_answered() -> None:
    asked = Tracing(me=peer(0), log=log(me=0))
    question = SAMPLES["spans request"]
    assert isinstance(question, SpansRequest)
    answered = sum(asked.received(question, question.sender, 100.0 + n / 1000) is not None for n in range(1000))
    assert answered <= 41, "a burst, and twenty a second"
    assert asked.received(question, question.sender, 200.0) is not None


def test_old_questions_are_given_up() -> None:
    asker = Tracing(me=peer(0), log=log(me=0))
    (_, first), *_ = asker.ask(CollectSpans(sequence=0, request=REQUEST), 1.0)[1]
    for sequence in range(1, 20):
        asker.ask(CollectSpans(sequence=sequence, request=REQUEST), 1.0)
    answer = Tracing(me=peer(1), log=log(me=1)).received(first, peer(0), 1.0)
    assert isinstance(answer, Spans)
    assert asker.received(answer, peer(1), 1.0) is None


def test_a_request_that_is_not_known_asks_nobody() -> None:
    own, questions = Tracing(me=peer(0), log=SpanLog()).ask(CollectSpans(sequence=1, request=None), 1.0)
    assert (own.attempts, questions) == ((), [])
    own, questions = Tracing(me=peer(0), log=log()).ask(CollectSpans(sequence=1, request=RequestId(1)), 1.0)
    assert (own.attempts, questions) == ((), [])


def test_more_spans_than_allowed_are_the_latest_ones() -> None:
    answer = SAMPLES["spans"]
    assert isinstance(answer, Spans)
    many = tuple((1, Span(SpanKind.QUERY, n % 65536, 0, float(n), float(n))) for n in range(MAX_SPANS + 5))
    arrived = wire.decode(wire.encode(replace(answer, spans=many)))
    assert isinstance(arrived, Spans)
    assert arrived.spans == many[-MAX_SPANS:]


@pytest.mark.parametrize("damage", [b"\x00", b"\x01\x0a" + bytes(16), b"\x01\x00\x00\x00\xff\xff" + bytes(12)])
def test_records_that_are_no_spans_are_refused(damage: bytes) -> None:
    answer = SAMPLES["spans"]
    assert isinstance(answer, Spans)
    frame = wire.encode(replace(answer, spans=()))[0]
    assert frame.endswith(b"\xc4\x00")
    with pytest.raises(BadFrame, match="field spans"):
        wire.decode([frame[:-1] + bytes([len(damage)]) + damage])


SECONDS = st.floats(0.0, 0.5)


@given(
    offset_s=st.floats(-1e6, 1e6),
    drift=st.floats(-DRIFT, DRIFT),
    way_s=st.lists(SECONDS, min_size=2, max_size=2),
    taken_s=SECONDS,
    age_s=st.floats(0.0, 3600.0),
    rounds=st.lists(st.tuples(SECONDS, SECONDS, st.booleans()), max_size=8),
)
def test_the_true_offset_lies_within_the_bounds(
    *,
    offset_s: float,
    drift: float,
    way_s: list[float],
    taken_s: float,
    age_s: float,
    rounds: list[tuple[float, float, bool]],
) -> None:
    """`offset_s` at the time of the request; the other clock runs wrong by `drift`, within what quartz does."""

    def theirs(at: float) -> float:
        return at + offset_s + drift * at

    asked_s = age_s  # the request was at 0
    received_s, answered_s = asked_s + way_s[0], asked_s + way_s[0] + taken_s
    came_s = answered_s + way_s[1]
    bounds = from_round_trip(
        asked_s=asked_s,
        received_s=theirs(received_s),
        answered_s=theirs(answered_s),
        came_s=came_s,
        age_s=came_s,
    )
    tolerance = 1e-6 + DRIFT  # of floats at such offsets, and of the half second that a message takes
    assert bounds.low_s - tolerance <= offset_s <= bounds.high_s + tolerance
    half_round_trip_s = sum(way_s) / 2
    assert bounds.error_s <= half_round_trip_s + DRIFT * came_s + tolerance
    ours = [(at, theirs(at + way)) for at, way, out in rounds if out]
    back = [(theirs(at), at + way) for at, way, out in rounds if not out]
    closer = narrowed(bounds, ours=ours, theirs=back)
    assert closer.low_s - tolerance <= offset_s <= closer.high_s + tolerance
    assert closer.error_s <= bounds.error_s


def test_messages_that_contradict_the_round_trip_do_not_count() -> None:
    bounds = OffsetBounds(low_s=0.0, high_s=1.0)
    assert narrowed(bounds, ours=[(10.0, 5.0)], theirs=[]) == bounds
    assert narrowed(bounds, ours=[(10.0, 10.25)], theirs=[(10.25, 10.125)]) == OffsetBounds(low_s=0.125, high_s=0.25)


def test_an_answer_that_claims_to_have_taken_longer_than_the_round_trip_gives_no_negative_error() -> None:
    bounds = from_round_trip(asked_s=0.0, received_s=5.0, answered_s=9.0, came_s=1.0, age_s=0.0)
    assert bounds.error_s >= 0.0
