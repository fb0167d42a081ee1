"""From what two boards noted, each by its own clock, to one picture: rounds, waterfall, trace file; who is missing."""

import asyncio
import json
from dataclasses import dataclass, replace

import pytest

from peer import trace_collector as module
from peer.errors import Refused
from peer.protocol.span import Span, SpanKind
from peer.protocol.spans import AttemptSpans
from peer.protocol.trace_messages import Spans
from peer.protocol.tracing import Collected, CollectSpans, OwnSpans
from peer.protocol.types import (
    AttemptKey,
    Endpoint,
    Exchange,
    Incarnation,
    Member,
    ModelId,
    PeerId,
    RequestId,
    Shard,
    Status,
    TokenRange,
    View,
)
from peer.reports import TraceReport
from peer.trace_collector import TraceCollector
from peer.trace_rounds import pieces, rounds
from peer.waterfall import bar, chrome, last_moment, phases_of

ME, OTHER = PeerId("0a" * 8), PeerId("0b" * 8)
REQUEST = RequestId(0xABC)
SKEW_S = -4321.5  # what the other board's clock shows beyond ours
MODEL = ModelId("ab" * 32)
SHARDS = (
    Shard(peer=ME, tokens=TokenRange(start=0, stop=8)),
    Shard(peer=OTHER, tokens=TokenRange(start=8, stop=16)),
)
# Two rounds, milliseconds by our clock. This board is ready at 4 and waits until the other one's codes are here at 12:
# they were ready at 10 and took 2 ms. Of the second round it is the other one that waits.
MINE = [
    Span(SpanKind.QUEUED, 0, 0, 0, 1),
    Span(SpanKind.PREPARE, 0, 0, 1, 2),
    Span(SpanKind.ENCODE, 0, 0, 2, 3),
    Span(SpanKind.SENT, 0, 0, 3, 3.5),
    Span(SpanKind.QUERY, 0, 0, 3.5, 4),
    Span(SpanKind.CAME, 0, 1, 12, 12),
    Span(SpanKind.DECODE, 0, 0, 12, 13),
    Span(SpanKind.ATTEND, 0, 0, 12, 20),
    Span(SpanKind.ENCODE, 1, 0, 20, 21),
    Span(SpanKind.SENT, 1, 0, 21, 21.5),
    Span(SpanKind.CAME, 1, 1, 21.6, 21.6),
    Span(SpanKind.QUERY, 1, 0, 21.5, 22),
    Span(SpanKind.ATTEND, 1, 0, 22, 30),
    Span(SpanKind.HEAD, 0, 0, 34, 35),
]
THEIRS = [
    Span(SpanKind.PREPARE, 0, 1, 5, 9),
    Span(SpanKind.ENCODE, 0, 1, 9, 10),
    Span(SpanKind.CAME, 0, 0, 10.5, 10.5),
    Span(SpanKind.SENT, 0, 1, 10, 10.5),
    Span(SpanKind.QUERY, 0, 1, 10.5, 11),
    Span(SpanKind.ATTEND, 0, 1, 11, 15),
    Span(SpanKind.ENCODE, 1, 1, 15, 16),
    Span(SpanKind.SENT, 1, 1, 16, 16.5),
    Span(SpanKind.QUERY, 1, 1, 16.5, 17),
    Span(SpanKind.CAME, 1, 0, 24, 24),
    Span(SpanKind.ATTEND, 1, 1, 24, 33),
]


def seconds(spans: list[Span], skew_s: float = 0.0) -> tuple[Span, ...]:
    return tuple(span._replace(start_s=span.start_s / 1e3 + skew_s, end_s=span.end_s / 1e3 + skew_s) for span in spans)


def own(sequence: int, attempt: int = 1) -> OwnSpans:
    spans = AttemptSpans(
        key=AttemptKey(REQUEST, attempt),
        model=MODEL,
        codec="f32",
        exchange=Exchange.DIRECT,
        batch=1,
        me=0,
        coordinator=0,
        shards=SHARDS,
        spans=seconds(MINE),
    )
    return OwnSpans(sequence=sequence, attempts=(spans,), asked=(OTHER,))


def answer(sequence: int) -> Collected:
    """A round trip of 40 ms, half a second later: the codes of the request, 2 and 3 ms on their way, tell more."""
    spans = Spans(
        sender=OTHER,
        sequence=sequence,
        request=REQUEST,
        asked_us=500_000,
        received_us=round((0.520 + SKEW_S + 10_000) * 1e6),
        sent_us=round((0.520 + SKEW_S + 10_000) * 1e6),
        spans=tuple((1, span) for span in seconds(THEIRS, SKEW_S + 10_000)),
    )
    return Collected(answer=spans, came_s=0.540)


def member(peer: PeerId, name: str) -> Member:
    return Member(
        peer=peer,
        name=name,
        endpoint=Endpoint(host="10.0.0.1", port=7700),
        public_key=bytes(32),
        incarnation=Incarnation(1),
        status=Status.ALIVE,
    )


@dataclass
class Compute:
    """A compute process that says what it was given, when it is asked."""

    answers: bool = True
    known: bool = True
    silent: bool = False

    def __post_init__(self) -> None:
        self.collector = TraceCollector(ask=self._asked, view=self._view, model_name=lambda model: f"model {model[:2]}")
        self.wanted: list[CollectSpans] = []

    def _view(self) -> View:
        return View(self_id=ME, members={ME: member(ME, "asked"), OTHER: member(OTHER, "helper")})

    def _asked(self, wanted: CollectSpans) -> None:
        self.wanted.append(wanted)
        if self.silent:
            return
        if not self.known:
            self.collector.heard(OwnSpans(sequence=wanted.sequence, attempts=(), asked=()))
            return
        self.collector.heard(own(wanted.sequence))
        if self.answers:
            self.collector.heard(answer(wanted.sequence))


async def traced(*, answers: bool = True) -> TraceReport:
    return await Compute(answers=answers).collector.collect(None)


async def test_both_boards_are_on_one_clock() -> None:
    report = await traced()
    mine, theirs = report.boards
    assert (mine.name, theirs.name, theirs.missing, theirs.tokens) == ("asked", "helper", False, (8, 16))
    assert (report.request, report.model, report.asked) == ("0000000000000abc", "model ab", ME)
    assert theirs.rtt_ms == pytest.approx(40.0)
    assert theirs.clock_error_ms == pytest.approx(2.5, abs=0.01)
    for span, original in zip(theirs.spans, seconds(THEIRS), strict=True):
        assert abs(span.start_ms - original.start_s * 1e3) <= theirs.clock_error_ms + 0.01
        assert span.duration_ms == pytest.approx((original.end_s - original.start_s) * 1e3, abs=0.01)
    assert {span.origin for span in theirs.spans} == {ME, OTHER}


async def test_rounds_tell_waiting_for_a_slower_board_from_the_network() -> None:
    report = await traced()
    error_ms = report.boards[1].clock_error_ms + 0.01
    first, second, there, there_second = rounds(report, 1)
    assert (first.board, first.block, first.encode_ms) == (ME, 0, pytest.approx(1.0))
    assert first.compute_ms == pytest.approx(0.5 + 8.0 - 1.0)
    assert first.decode_ms == pytest.approx(1.0)
    assert first.wait_ms + first.network_ms == pytest.approx(8.0)
    assert first.network_ms == pytest.approx(2.0, abs=error_ms)
    assert second.wait_ms + second.network_ms == pytest.approx(0.0)
    assert there.wait_ms + there.network_ms == pytest.approx(0.0, abs=0.01)
    assert there_second.wait_ms + there_second.network_ms == pytest.approx(7.0, abs=0.01)
    assert there_second.network_ms == pytest.approx(3.0, abs=error_ms)


async def test_a_board_that_does_not_answer_is_shown_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OTHERS_S", 0.01)
    report = await traced(answers=False)
    mine, theirs = report.boards
    assert (theirs.missing, theirs.spans, theirs.rtt_ms) == (True, (), None)
    assert not mine.missing
    (first, _) = rounds(report, 1)
    assert (first.wait_ms, first.network_ms) == (pytest.approx(8.0), 0.0), "whose fault it was is not known"


async def test_an_answer_that_comes_too_late_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OTHERS_S", 0.01)
    compute = Compute(answers=False)
    await compute.collector.collect(REQUEST)
    compute.collector.heard(answer(compute.wanted[0].sequence))
    compute.collector.heard(own(99))
    assert compute.wanted == [CollectSpans(sequence=compute.wanted[0].sequence, request=REQUEST)]


async def test_two_who_ask_at_once_get_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Compute()
    reports = await asyncio.gather(compute.collector.collect(None), compute.collector.collect(REQUEST))
    assert reports[0] == reports[1]
    assert len({wanted.sequence for wanted in compute.wanted}) == 2


@pytest.mark.parametrize(
    ("compute", "request_", "words"),
    [
        (Compute(known=False), None, "run peerctl infer first"),
        (Compute(known=False), REQUEST, "knows nothing of request 0000000000000abc"),
        (Compute(silent=True), None, "try again in a moment"),
    ],
)
async def test_what_cannot_be_told_is_refused(
    monkeypatch: pytest.MonkeyPatch, compute: Compute, request_: RequestId | None, words: str
) -> None:
    monkeypatch.setattr(module, "_OWN_S", 0.01)
    with pytest.raises(Refused, match=words):
        await compute.collector.collect(request_)


async def test_the_waterfall_shows_where_the_time_goes() -> None:
    report = await traced()
    assert last_moment(report) == pytest.approx(35.0, abs=0.1)
    mine = bar(pieces(report, report.boards[0], 1), from_ms=0.0, to_ms=35.0, width=35)
    assert mine == "qpec......~~dccccccceccccccccc    h"
    theirs = bar(pieces(report, report.boards[1], 1), from_ms=0.0, to_ms=35.0, width=35)
    assert theirs.strip().startswith("pppp")
    assert theirs.count(".") + theirs.count("~") == pytest.approx(7, abs=1)
    spent = phases_of(report, report.boards[0], 1)
    assert spent["decode"] == pytest.approx(1.0)
    assert spent["compute"] == pytest.approx(0.5 + 7.0 + 0.5 + 8.0)


async def test_the_trace_file_is_one_that_viewers_read() -> None:
    written = json.loads(json.dumps(chrome(await traced()), allow_nan=False))
    events = written["traceEvents"]
    # The Trace Event Format: a process per board with its name, complete events with a length, arrows in pairs.
    assert {(event["pid"], event["args"]["name"]) for event in events if event["name"] == "process_name"} == {
        (0, f"asked ({ME})"),
        (1, f"helper ({OTHER})"),
    }
    complete = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] > 0 and event["ts"] >= -1e4 and event["tid"] == 0 for event in complete)
    assert {"prepare", "encode", "compute", "decode", "wait", "network", "head"} <= {e["name"] for e in complete}
    starts = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert len(starts) == len(ends) == 4
    assert starts.keys() == ends.keys()
    assert all(ends[n]["ts"] >= starts[n]["ts"] and ends[n]["pid"] != starts[n]["pid"] for n in starts)


async def test_an_undivided_request_is_one_bar() -> None:
    compute = Compute(answers=False)
    spans = own(0).attempts[0]
    whole = replace(
        spans, key=AttemptKey(REQUEST, 0), shards=(), spans=(Span(SpanKind.WHOLE, 0, 0, 0.001, 0.004),), codec=""
    )
    compute.silent = True
    task = asyncio.ensure_future(compute.collector.collect(None))
    await asyncio.sleep(0)
    compute.collector.heard(OwnSpans(sequence=compute.wanted[0].sequence, attempts=(whole,), asked=()))
    report = await task
    assert (report.mode, report.codec, report.exchange, len(report.boards)) == ("single", None, None, 1)
    assert bar(pieces(report, report.boards[0], 0), from_ms=0.0, to_ms=3.0, width=3) == "ccc"
