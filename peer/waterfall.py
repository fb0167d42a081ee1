"""A trace as text for a terminal, and as a file for Chrome's and Perfetto's viewers. Pure."""

from collections.abc import Mapping, Sequence

from peer.reports import TracedBoardReport, TraceReport
from peer.trace_rounds import Piece, pieces

# One letter per phase: readable without colour, on any terminal.
LETTERS: Mapping[str, str] = {
    "queued": "q",
    "prepare": "p",
    "encode": "e",
    "compute": "c",
    "decode": "d",
    "wait": ".",
    "network": "~",
    "whole": "c",
    "head": "h",
}
LEGEND = "q queued  p prepare  e encode  c compute  d decode  . wait for a slower board  ~ network  h head"
_OVER = ("head", "encode", "decode", "network", "prepare", "whole", "compute", "queued", "wait")  # what a cell shows
_US = 1e3  # of a millisecond


def last_moment(trace: TraceReport) -> float:
    """When the last span ended, milliseconds from the first."""
    return max((s.start_ms + s.duration_ms for board in trace.boards for s in board.spans), default=0.0)


def bar(found: Sequence[Piece], *, from_ms: float, to_ms: float, width: int) -> str:
    """`width` cells, each with the letter of the phase that took most of its time; a blank where nothing is known."""
    cells = []
    cell_ms = (to_ms - from_ms) / width
    for number in range(width):
        low, high = from_ms + number * cell_ms, from_ms + (number + 1) * cell_ms
        spent: dict[str, float] = {}
        for piece in found:
            overlap = min(high, piece.end_ms) - max(low, piece.start_ms)
            if overlap > 0:
                spent[piece.phase] = spent.get(piece.phase, 0.0) + overlap
        # Decoding lies within the compute span of its block.
        spent["compute"] = spent.get("compute", 0.0) - spent.get("decode", 0.0)
        best = max(_OVER, key=lambda phase: (spent.get(phase, 0.0), -_OVER.index(phase)))
        cells.append(LETTERS[best] if spent.get(best, 0.0) > 0 else " ")
    return "".join(cells)


def chrome(trace: TraceReport) -> dict[str, object]:
    """The Trace Event Format (JSON object form): a process per board, its steps, and an arrow per code message."""
    events: list[dict[str, object]] = []
    for number, board in enumerate(trace.boards):
        label = f"{board.name} ({board.id})" + (", no answer" if board.missing else "")
        events.append({"ph": "M", "pid": number, "tid": 0, "name": "process_name", "args": {"name": label}})
        events.append(
            {"ph": "M", "pid": number, "tid": 0, "name": "process_sort_index", "args": {"sort_index": number}}
        )
        for attempt in sorted({span.attempt for span in board.spans}):
            for piece in pieces(trace, board, attempt):
                events.append(
                    {
                        "ph": "X",
                        "pid": number,
                        "tid": 0,
                        "name": piece.phase,
                        "cat": "tokenring",
                        "ts": piece.start_ms * _US,
                        "dur": (piece.end_ms - piece.start_ms) * _US,
                        "args": {"attempt": attempt, "block": piece.block},
                    }
                )
    return {
        "traceEvents": events + _arrows(trace),
        "displayTimeUnit": "ms",
        "otherData": {
            "request": trace.request,
            "model": trace.model,
            "codec": trace.codec,
            "exchange": trace.exchange,
            "clock_error_ms": {board.name: board.clock_error_ms for board in trace.boards},
        },
    }


def _arrows(trace: TraceReport) -> list[dict[str, object]]:
    """From where codes were handed over to where they were taken up."""
    pids = {board.id: number for number, board in enumerate(trace.boards)}
    sent = {
        (board.id, span.attempt, span.block): span
        for board in trace.boards
        for span in board.spans
        if span.kind == "sent"
    }
    events: list[dict[str, object]] = []
    for board in trace.boards:
        for span in board.spans:
            start = sent.get((span.origin or "", span.attempt, span.block))
            if span.kind != "came" or start is None:
                continue
            common = {"cat": "codes", "name": f"codes of block {span.block}", "id": len(events) // 2, "tid": 0}
            # The arrow begins in the step that made the codes, and ends in the one that uses them.
            events.append({"ph": "s", "pid": pids[span.origin or ""], "ts": start.start_ms * _US, **common})
            events.append({"ph": "f", "bp": "e", "pid": pids[board.id], "ts": span.start_ms * _US, **common})
    return events


def phases_of(trace: TraceReport, board: TracedBoardReport, attempt: int) -> dict[str, float]:
    """How long a board spent in each phase, milliseconds; decoding is not counted as computing as well."""
    spent: dict[str, float] = {}
    for piece in pieces(trace, board, attempt):
        spent[piece.phase] = spent.get(piece.phase, 0.0) + piece.end_ms - piece.start_ms
    if "decode" in spent:
        spent["compute"] = spent.get("compute", 0.0) - spent["decode"]
    return spent
