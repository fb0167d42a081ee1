"""What measurements say beside each other: speed-ups, the bound of a machine, a model of tensor parallelism. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tools.testbed.records import BoardTimes, Measured

F32_BYTES = 4
REDUCTIONS = 2  # of a block under tensor parallelism: after the attention, after the MLP


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Where one request's time went, ms; `rest` is what no board reports: decoding the picture, Python, the client."""

    compute_ms: float
    encode_ms: float
    decode_ms: float
    wait_ms: float
    rest_ms: float


def alone(rows: Sequence[Measured], like: Measured) -> Measured | None:
    """The fastest measurement of one board in the same plan, at the same rate, on a model of the same network."""
    network = like.model.removesuffix("-int8")
    same = [
        row
        for row in rows
        if row.boards == 1
        and row.plan == like.plan
        and row.mbit == like.mbit
        and row.model.removesuffix("-int8") == network
    ]
    return min(same, key=lambda row: row.median_ms, default=None)


def speed_up(rows: Sequence[Measured], row: Measured) -> float | None:
    """How many times as fast as the fastest way of one board; None where that was not measured."""
    base = alone(rows, row)
    return None if base is None else base.median_ms / row.median_ms


def busy_ms(board: BoardTimes) -> float:
    """What a board did in a request, waiting left out."""
    return board.prepare_ms + board.compute_ms + board.encode_ms + board.decode_ms


def bound_ms(row: Measured) -> float:
    """The slowest board's work, and what its link needs for its part of the input and for its codes, one after other.

    Nothing that waits, no Python of the daemons, no decoding of the picture: no schedule of these stages can be faster.
    """
    bits = 8 * (row.payload_bytes / max(1, row.boards) + row.input_bytes)
    return max(map(busy_ms, row.costs)) + bits / (row.mbit * 1e3)


def shares(row: Measured) -> Shares:
    """Of the board that was busy longest."""
    board = max(row.costs, key=busy_ms)
    known = busy_ms(board) + board.wait_ms
    return Shares(
        compute_ms=board.prepare_ms + board.compute_ms,
        encode_ms=board.encode_ms,
        decode_ms=board.decode_ms,
        wait_ms=board.wait_ms,
        rest_ms=max(0.0, row.median_ms - known),
    )


def tensor_parallel_ms(
    *, alone_ms: float, boards: int, blocks: int, tokens: int, width: int, mbit: float, round_ms: float
) -> float:
    """Modelled: the work divided evenly, and two all-reduces of all tokens per block on links of this rate.

    Each passes 2 (N-1)/N of the tensor through every link, and costs at least one round's fixed time.
    """
    reduced_bytes = 2 * (boards - 1) / boards * tokens * width * F32_BYTES
    each_ms = reduced_bytes * 8 / (mbit * 1e3) + round_ms
    return alone_ms / boards + REDUCTIONS * blocks * each_ms


def prediction_error(row: Measured) -> float | None:
    """How far the planner's forecast was off, as a share of what was measured."""
    return None if row.predicted_ms is None else row.predicted_ms / row.median_ms - 1


def regret(rows: Sequence[Measured], chosen: Measured) -> float | None:
    """How much slower the planner's own choice was than the fastest setting that was measured beside it."""
    others = [
        row.median_ms
        for row in rows
        if row.plan == chosen.plan and row.mbit == chosen.mbit and row is not chosen and " 0 -" not in row.key
    ]
    return chosen.median_ms / min(others) - 1 if others else None


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
