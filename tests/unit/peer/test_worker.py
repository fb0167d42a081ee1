"""Compute as the protocol sees it: two boards' work in one process, and who is blamed when a payload is damaged."""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from peer.catalog import _facts
from peer.protocol.effects import Attend, Begin, Forget, Payload, Query, RunHead, RunWhole
from peer.protocol.events import AnswerFailed, CodesReady, ComputeFailed, LogitsReady, QueryDone, ShardDone
from peer.protocol.messages import Assign
from peer.protocol.types import (
    AttemptKey,
    Epoch,
    Exchange,
    FailureReason,
    InputKind,
    ModelId,
    PeerId,
    RequestId,
    Shard,
    TokenRange,
)
from peer.worker import Worker
from runtime.arrays import U8
from runtime.errors import PlanError
from runtime.model import Model
from runtime.packed_rows import pack_rows

KEY = AttemptKey(request=RequestId(5), attempt=1)
SPLIT = (0, 5, 11, 16)  # the tokens of three boards
MODEL = ModelId("ab" * 32)


@pytest.fixture
def worker(tiny: Model) -> Worker:
    return Worker({MODEL: tiny})


@pytest.fixture
def rows(tiny: Model) -> U8:
    """u8 [batch 1, tokens, row_bytes]."""
    geometry = tiny.plan.geometry
    shape = (1, geometry.tokens, geometry.row_bytes)
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def key(board: int) -> AttemptKey:
    """Three boards in one worker: each has an attempt of its own."""
    return AttemptKey(request=KEY.request, attempt=board + 1)


def begin(board: int, rows: U8, codec: str = "int8", body: bytes | None = None) -> Begin:
    shards = tuple(
        Shard(peer=PeerId(f"{i:016x}"), tokens=TokenRange(start=start, stop=stop))
        for i, (start, stop) in enumerate(itertools.pairwise(SPLIT))
    )
    mine = shards[board].tokens
    assign = Assign(
        request=KEY.request,
        attempt=key(board).attempt,
        epoch=Epoch(1),
        model=MODEL,
        codec=codec,
        exchange=Exchange.DIRECT,
        batch=1,
        coordinator=0,
        shards=shards,
        deadline_ms=1000,
        round_ms=5_000,
        degrade_ms=0,
        degrade_from=6,
        input_kind=InputKind.ROWS,
        body=rows[:, mine.start : mine.stop].tobytes() if body is None else body,
    )
    return Begin(key=key(board), assign=assign, me=board)


def attend(board: int, bodies: Mapping[int, bytes]) -> Attend:
    payloads = tuple(
        Payload(origin=i, tokens=SPLIT[i + 1] - SPLIT[i], body=body) for i, body in bodies.items() if i != board
    )
    return Attend(key=key(board), payloads=payloads)


def first_codes(worker: Worker, rows: U8, codec: str = "int8") -> dict[int, bytes]:
    bodies = {}
    for board in range(3):
        event = worker.begin(begin(board, rows, codec))
        assert isinstance(event, CodesReady)
        bodies[board] = event.body
    return bodies


def test_three_boards_give_the_undivided_answer(worker: Worker, tiny: Model, rows: U8) -> None:
    bodies, done = first_codes(worker, rows, "f32"), {}
    for block in range(tiny.plan.geometry.blocks):
        events = {}
        for board in range(3):
            assert worker.query(Query(key=key(board))) == QueryDone(key=key(board))
            events[board] = worker.attend(attend(board, bodies))
        for board, event in events.items():
            if isinstance(event, CodesReady):
                assert event.block == block + 1
                bodies[board] = event.body
            elif isinstance(event, ShardDone):
                done[board] = event.body
    features = tuple(done[board] for board in range(3))
    answer = worker.head(RunHead(request=KEY.request, model=MODEL, batch=1, features=features))
    whole = worker.whole(RunWhole(request=KEY.request, model=MODEL, batch=1, rows=rows.tobytes()))
    assert isinstance(answer, LogitsReady)
    assert isinstance(whole, LogitsReady)
    np.testing.assert_allclose(np.frombuffer(answer.body, "f4"), np.frombuffer(whole.body, "f4"), atol=1e-5)


def test_a_worker_that_is_not_let_to_run_between_its_steps_is_slow(tiny: Model, rows: U8) -> None:
    """A CPU quota strikes while a board waits for codes: its steps are quick, and all others wait for it."""

    facts = _facts(tiny.plan)

    def speed(starved_s: float) -> float:
        worker = Worker({MODEL: tiny}, lambda: MODEL, lambda model: facts, itertools.count(0.0, starved_s).__next__)
        while not worker.idle(0.0):
            pass
        bodies = first_codes(worker, rows)
        for _ in range(tiny.plan.geometry.blocks):
            for board in bodies:
                worker.query(Query(key=key(board)))
            events = [worker.attend(attend(board, bodies)) for board in bodies]
            bodies = {board: e.body for board, e in enumerate(events) if isinstance(e, CodesReady)} or bodies
        now = worker.speedometer.speed(time.monotonic())
        assert now is not None
        return now

    assert speed(starved_s=10.0) < 0.01 * speed(starved_s=0.0)


def not_a_number(body: bytes) -> bytes:
    """The first scale of an int8 payload, a float16, becomes NaN."""
    return b"\xff\xff" + body[2:]


def cut(body: bytes) -> bytes:
    return body[:-1]


def longer(body: bytes) -> bytes:
    return body + b"\0"


@pytest.mark.parametrize("culprits", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("damage", [not_a_number, cut, longer])
def test_the_origin_of_a_damaged_payload_is_blamed(
    worker: Worker, rows: U8, culprits: tuple[int, ...], damage: Callable[[bytes], bytes]
) -> None:
    bodies = first_codes(worker, rows)
    for culprit in culprits:
        bodies[culprit] = damage(bodies[culprit])
    event = worker.attend(attend(0, bodies))
    assert isinstance(event, ComputeFailed)
    assert event.key == key(0)
    assert event.reason is FailureReason.BAD_PAYLOAD
    assert event.blamed == culprits
    assert "\n" not in event.detail


def test_another_board_goes_on_while_one_has_a_damaged_payload(worker: Worker, rows: U8) -> None:
    bodies = first_codes(worker, rows)
    assert isinstance(worker.attend(attend(0, bodies | {1: b""})), ComputeFailed)
    assert isinstance(worker.attend(attend(2, bodies)), CodesReady)


@pytest.mark.parametrize("body", [b"", b"x", b"x" * 1000])
def test_input_of_a_wrong_length_fails_and_blames_nobody(worker: Worker, rows: U8, body: bytes) -> None:
    event = worker.begin(begin(0, rows, body=body))
    assert isinstance(event, ComputeFailed)
    assert (event.reason, event.blamed) == (FailureReason.STAGE_FAILED, ())


def test_a_codec_that_the_model_lacks_fails_the_attempt(worker: Worker, rows: U8) -> None:
    event = worker.begin(begin(0, rows, codec="nonsense"))
    assert isinstance(event, ComputeFailed)
    assert "nonsense" in event.detail


def test_what_was_forgotten_is_not_worked_on(worker: Worker, rows: U8) -> None:
    bodies = first_codes(worker, rows)
    worker.forget(Forget(key=key(0)))
    worker.forget(Forget(key=key(0)))
    assert worker.query(Query(key=key(0))) is None
    assert worker.attend(attend(0, bodies)) is None


def test_features_that_are_not_finite_make_no_answer(worker: Worker, tiny: Model) -> None:
    good = bytes(4 * tiny.plan.geometry.width)
    bad = np.full(tiny.plan.geometry.width, np.nan, dtype=np.float32).tobytes()
    event = worker.head(RunHead(request=KEY.request, model=MODEL, batch=1, features=(good, bad)))
    assert isinstance(event, AnswerFailed)
    assert "not finite" in event.detail


class Gone(dict[ModelId, Model]):
    """A catalog whose models vanished from the disk before they were first needed."""

    def __getitem__(self, model: ModelId) -> Model:
        raise PlanError("the models folder is gone", "mount it again")


def test_a_model_that_cannot_be_loaded_fails_the_request_and_not_the_board(rows: U8) -> None:
    worker = Worker(Gone())
    assert isinstance(worker.begin(begin(0, rows)), ComputeFailed)
    assert isinstance(worker.whole(RunWhole(request=KEY.request, model=MODEL, batch=1, rows=b"")), AnswerFailed)
    assert isinstance(worker.head(RunHead(request=KEY.request, model=MODEL, batch=1, features=(b"",))), AnswerFailed)


def test_packed_rows_are_the_rows(worker: Worker, rows: U8) -> None:
    plain = begin(1, rows)
    packed = pack_rows(plain.assign.body, rows.shape[2])
    event = worker.begin(replace(plain, assign=replace(plain.assign, input_kind=InputKind.PACKED, body=packed)))
    assert isinstance(event, CodesReady)
    assert event.body == first_codes(worker, rows)[1]


def test_packed_rows_of_another_size_fail_the_attempt(worker: Worker, rows: U8) -> None:
    plain = begin(1, rows)
    for body in (b"", b"\xff" * 30, pack_rows(plain.assign.body[: rows.shape[2]], rows.shape[2])):
        event = worker.begin(replace(plain, assign=replace(plain.assign, input_kind=InputKind.PACKED, body=body)))
        assert isinstance(event, ComputeFailed)
        assert "packed patch rows" in event.detail
