"""From the spans of one attempt to what each round was on each board: computing, encoding, waiting, network. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peer.reports import SpanReport, TracedBoardReport, TraceReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of one board, milliseconds.

    `wait`: until the last of the others had its codes ready; `network`: from then on until they were taken up here.
    Where that board did not answer, all of it is `wait`.
    """

    board: str
    block: int
    start_ms: float
    wait_from_ms: float
    compute_ms: float = 0.0
    encode_ms: float = 0.0
    decode_ms: float = 0.0
    wait_ms: float = 0.0
    network_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a board's time in one phase, for drawing; milliseconds from the trace's first moment."""

    phase: str  # queued, prepare, encode, compute, decode, wait, network, whole or head
    start_ms: float
    end_ms: float
    block: int


def rounds(trace: TraceReport, attempt: int) -> list[Round]:
    """Every round of every board that answered, in the order of boards and blocks."""
    sent = {board.id: _ready(board, attempt) for board in trace.boards}
    return [found for board in trace.boards for found in _rounds(board, attempt, sent)]


def pieces(trace: TraceReport, board: TracedBoardReport, attempt: int) -> list[Piece]:
    """A board's time, stretch by stretch; the waiting between its steps included."""
    found = []
    for span in board.spans:
        if span.attempt != attempt or span.kind in ("sent", "came"):
            continue
        phase = "compute" if span.kind in ("query", "attend") else span.kind
        found.append(
            Piece(phase=phase, start_ms=span.start_ms, end_ms=span.start_ms + span.duration_ms, block=span.block)
        )
    for each in rounds(trace, attempt):
        if each.board == board.id:
            middle, end = each.wait_from_ms + each.wait_ms, each.wait_from_ms + each.wait_ms + each.network_ms
            found.append(Piece(phase="wait", start_ms=each.wait_from_ms, end_ms=middle, block=each.block))
            found.append(Piece(phase="network", start_ms=middle, end_ms=end, block=each.block))
    # What lies within another stretch comes after it, so that it is drawn over it.
    return sorted((piece for piece in found if piece.end_ms > piece.start_ms), key=lambda p: (p.start_ms, -p.end_ms))


def _ready(board: TracedBoardReport, attempt: int) -> Mapping[int, float]:
    """When the board's own codes of each block were ready to be sent."""
    return {s.block: s.start_ms for s in board.spans if s.attempt == attempt and s.kind == "sent"}


def _rounds(board: TracedBoardReport, attempt: int, sent: Mapping[str, Mapping[int, float]]) -> list[Round]:
    steps: dict[int, dict[str, SpanReport]] = {}
    came: dict[int, list[SpanReport]] = {}
    for span in board.spans:
        if span.attempt != attempt:
            continue
        if span.kind == "came":
            came.setdefault(span.block, []).append(span)
        elif span.kind in ("encode", "sent", "query", "decode", "attend"):
            steps.setdefault(span.block, {})[span.kind] = span
    return [_round(board.id, block, step, came.get(block, []), sent) for block, step in sorted(steps.items())]


def _round(
    board: str,
    block: int,
    step: Mapping[str, SpanReport],
    came: Sequence[SpanReport],
    sent: Mapping[str, Mapping[int, float]],
) -> Round:
    decode_ms = _length(step, "decode")
    from_ms = max((_end(step[kind]) for kind in ("encode", "sent", "query") if kind in step), default=0.0)
    gap_ms = max(0.0, step["attend"].start_ms - from_ms) if "attend" in step and came else 0.0
    last = max(came, key=lambda span: span.start_ms, default=None)
    network_ms = 0.0
    if last is not None and last.origin is not None:
        ready_ms = sent.get(last.origin, {}).get(block)
        if ready_ms is not None:
            network_ms = min(gap_ms, max(0.0, last.start_ms - max(from_ms, ready_ms)))
    return Round(
        board=board,
        block=block,
        start_ms=min(span.start_ms for span in step.values()),
        wait_from_ms=from_ms,
        compute_ms=_length(step, "query") + max(0.0, _length(step, "attend") - decode_ms),
        encode_ms=_length(step, "encode"),
        decode_ms=decode_ms,
        wait_ms=gap_ms - network_ms,
        network_ms=network_ms,
    )


def _end(span: SpanReport) -> float:
    return span.start_ms + span.duration_ms


def _length(step: Mapping[str, SpanReport], kind: str) -> float:
    return step[kind].duration_ms if kind in step else 0.0
