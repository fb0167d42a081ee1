"""The asked board's side of one request: every phase meets every event, and each refusal has a name."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from protocol_cases import (
    FACTS,
    REQUEST,
    ROW_BYTES,
    TOKENS,
    WIDTH,
    changed,
    failed,
    feature,
    names,
    peer,
    submission,
    view,
)

from peer.errors import (
    Cancelled,
    DeadlineExceeded,
    NotEnoughBoards,
    Refused,
    RemoteStageError,
    RequestError,
)
from peer.protocol import ring
from peer.protocol.coordinator import MAX_ATTEMPTS, Coordinator, Phase
from peer.protocol.effects import Answer, Deliver, Effect, RunHead, Send
from peer.protocol.events import AnswerFailed, LogitsReady, Mode, Submission
from peer.protocol.experience import Experience
from peer.protocol.messages import Assign
from peer.protocol.outlook import Bustle, Outlook
from peer.protocol.patience import FIRST_ROUND_S, Patience
from peer.protocol.types import Epoch, Exchange, FailureReason, PeerId, Status, Timing, View

BOARDS = 4
VIEW = view(BOARDS)
LOGITS = LogitsReady(request=REQUEST, timing=Timing(compute_us=3), body=b"logits")
BROKEN = AnswerFailed(request=REQUEST, detail="head broke")


def epoch_of(*boards: int) -> Epoch:
    return ring.epoch([VIEW.members[peer(i)] for i in boards])


ALL = epoch_of(*range(BOARDS))


def coordinator(asked: Submission | None = None, patience: Patience | None = None, now: float = 0.0) -> Coordinator:
    return Coordinator(
        submission=asked or submission(),
        facts=FACTS,
        patience=patience or Patience(),
        outlook=Outlook(Experience(), dict),
        now=now,
    )


def started(
    asked: Submission | None = None, known: View = VIEW, *, patience: Patience | None = None, now: float = 0.0
) -> tuple[Coordinator, list[Effect]]:
    machine = coordinator(asked, patience, now)
    bustle = Bustle(absent=patience.absent(now) if patience else frozenset())
    effects = machine.begin(known, bustle, now)
    machine.check()
    return machine, effects


def running() -> Coordinator:
    """All class tokens but the last are here."""
    machine, _ = started()
    for origin in range(BOARDS - 1):
        assert machine.feature(feature(origin, epoch=ALL), VIEW, 1.0) == []
    return machine


def answering() -> Coordinator:
    machine = running()
    assert names(machine.feature(feature(BOARDS - 1, epoch=ALL), VIEW, 1.0)) == ["RunHead"]
    return machine


def alone() -> Coordinator:
    machine, effects = started(submission(mode=Mode.SINGLE))
    assert names(effects) == ["RunWhole"]
    return machine


def done() -> Coordinator:
    machine = answering()
    machine.cancel()
    return machine


Event = Callable[[Coordinator], list[Effect]]
STATES: dict[str, Callable[[], Coordinator]] = {
    "running": running,
    "answering": answering,
    "alone": alone,
    "done": done,
}
EVENTS: dict[str, Event] = {
    "last Feature": lambda c: c.feature(feature(3, epoch=ALL), VIEW, 2.0),
    "Feature again": lambda c: c.feature(feature(1, epoch=ALL), VIEW, 2.0),
    "Feature of another attempt": lambda c: c.feature(feature(3, epoch=ALL, attempt=2), VIEW, 2.0),
    "Feature of another ring": lambda c: c.feature(feature(3, epoch=Epoch(1)), VIEW, 2.0),
    "Feature of no board": lambda c: c.feature(feature(4, epoch=ALL), VIEW, 2.0),
    "Feature of another length": lambda c: c.feature(feature(3, epoch=ALL, size=3), VIEW, 2.0),
    "Failed": lambda c: c.failed(failed(2, epoch=ALL, missing=(3,)), VIEW, 2.0),
    "Failed of another attempt": lambda c: c.failed(failed(2, epoch=ALL, attempt=9), VIEW, 2.0),
    "Failed of another ring": lambda c: c.failed(failed(2, epoch=Epoch(1)), VIEW, 2.0),
    "Failed of no board": lambda c: c.failed(failed(9, epoch=ALL), VIEW, 2.0),
    "Failed here": lambda c: c.failed(failed(0, epoch=ALL, reason=FailureReason.BUSY), VIEW, 2.0),
    "stage broke here": lambda c: c.failed(failed(0, epoch=ALL, reason=FailureReason.STAGE_FAILED), VIEW, 2.0),
    "a needed board lost": lambda c: c.peer_lost(peer(3), VIEW, 2.0),
    "a board that is through lost": lambda c: c.peer_lost(peer(1), VIEW, 2.0),
    "a stranger lost": lambda c: c.peer_lost(peer(9), VIEW, 2.0),
    "LogitsReady": lambda c: c.logits(LOGITS, 2.0),
    "LogitsReady, late": lambda c: c.logits(LOGITS, 100.0),
    "AnswerFailed": lambda c: c.answer_failed(BROKEN),
    "cancelled": lambda c: c.cancel(),
    "timer, early": lambda c: c.timer(VIEW, 2.9),
    "timer, gather": lambda c: c.timer(VIEW, 6.0),
    "timer, rescue": lambda c: c.timer(VIEW, RESCUE_AT),
    "timer, deadline": lambda c: c.timer(VIEW, 100.0),
}
RESCUE_AT = 80.0  # with 100 s for the request
CANCELS = "Cancel Cancel Cancel Cancel "
RETRY = f"running: {CANCELS}Assign Assign Assign"
END = f"done: {CANCELS}Deliver"
TABLE: dict[str, tuple[str, str, str]] = {  # event: running, answering, alone; "" is a listed no-op; done: always
    "last Feature": ("answering: RunHead", "", ""),
    "Feature again": ("", "", ""),
    "Feature of another attempt": ("", "", ""),
    "Feature of another ring": ("", "", ""),
    "Feature of no board": ("", "", ""),
    "Feature of another length": (RETRY, "", ""),
    "Failed": (RETRY, "", ""),
    "Failed of another attempt": ("", "", ""),
    "Failed of another ring": ("", "", ""),
    "Failed of no board": ("", "", ""),
    "Failed here": (END, "", ""),
    "stage broke here": (END, "", ""),
    "a needed board lost": (RETRY, "", ""),
    "a board that is through lost": ("", "", ""),
    "a stranger lost": ("", "", ""),
    "LogitsReady": ("", "done: Deliver", "done: Deliver"),
    "LogitsReady, late": ("", END, "done: Deliver"),
    "AnswerFailed": ("", "done: Deliver", "done: Deliver"),
    "cancelled": (END, END, "done: Deliver"),
    "timer, early": ("", "", ""),
    "timer, gather": (RETRY, "", ""),
    "timer, rescue": (f"answering: {CANCELS}RunWhole", "", ""),
    "timer, deadline": (END, END, "done: Deliver"),
}


def test_the_table_is_complete() -> None:
    assert TABLE.keys() == EVENTS.keys()


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_every_phase_meets_every_event(state: str, event: str) -> None:
    machine = STATES[state]()
    before = machine.phase
    effects = EVENTS[event](machine)
    machine.check()
    expected = (*TABLE[event], "")[list(STATES).index(state)]
    if not expected:
        assert not effects
        assert machine.phase is before
    else:
        assert f"{machine.phase.value}: {' '.join(names(effects))}" == expected


def ended(effects: list[Effect]) -> Answer | RequestError:
    (deliver,) = [effect for effect in effects if isinstance(effect, Deliver)]
    return deliver.result


def assigned(effects: list[Effect]) -> dict[PeerId, Assign]:
    return {e.to: e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Assign)}


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (submission(boards=5), NotEnoughBoards),
        (submission(boards=0), Refused),
        (submission(boards=-1), Refused),
        (submission(boards=2, shares=(1.0,)), Refused),
        (submission(boards=2, shares=(1.0, float("nan"))), Refused),
        (submission(boards=2, shares=(1.0, float("inf"))), Refused),
        (submission(boards=2, shares=(1.0, -1.0)), Refused),
        (submission(codec="none"), Refused),
        (submission(codec="huge"), Refused),
    ],
)
def test_what_cannot_be_planned_ends_at_once(asked: Submission, error: type[RequestError]) -> None:
    machine, effects = started(asked)
    assert names(effects) == ["Deliver"]
    assert type(ended(effects)) is error
    assert machine.phase is Phase.DONE


def test_too_few_boards_are_named() -> None:
    known = changed(changed(VIEW, 2, status=Status.SUSPECT), 3, status=Status.DEAD)
    assert "board0, board1" in str(ended(started(submission(boards=4), known)[1]))


def test_the_asked_board_is_always_among_the_chosen() -> None:
    for me in range(BOARDS):
        messages = assigned(started(submission(boards=2), view(BOARDS, me))[1])
        assert messages.keys() == {peer(me), peer((me + 1) % BOARDS)}
        assert {m.shards[m.coordinator].peer for m in messages.values()} == {peer(me)}


def test_the_others_are_told_before_the_own_board_starts() -> None:
    effects = started(known=view(BOARDS, 1))[1]
    assert [e.to for e in effects if isinstance(e, Send)] == [peer(0), peer(2), peer(3), peer(1)]


@pytest.mark.parametrize("batch", [1, 3])
def test_boards_get_their_own_rows_and_nothing_else(batch: int) -> None:
    asked = submission(batch=batch, boards=3, shares=(1.0, 2.0, 5.0))
    messages = assigned(started(asked)[1])
    image = TOKENS * ROW_BYTES
    rebuilt = [
        b"".join(m.body[b * len(m.body) // batch :][: len(m.body) // batch] for m in messages.values())
        for b in range(batch)
    ]
    order = sorted(messages)
    rebuilt = [
        b"".join(
            messages[p].body[b * (len(messages[p].body) // batch) :][: len(messages[p].body) // batch] for p in order
        )
        for b in range(batch)
    ]
    assert rebuilt == [asked.rows[b * image : (b + 1) * image] for b in range(batch)]
    assert [s.tokens.count for s in messages[peer(0)].shards] == [2, 4, 10]


@pytest.mark.parametrize("deadline_at", [100.0, 1e12, float("inf")])
def test_time_left_fits_its_field(deadline_at: float) -> None:
    message = assigned(started(submission(deadline_at=deadline_at))[1])[peer(1)]
    assert message.deadline_ms == min(100_000 if deadline_at == 100 else (1 << 32) - 1, (1 << 32) - 1)


def test_an_answer_tells_how_it_came_about() -> None:
    answer = ended(answering().logits(LOGITS, 2.5))
    assert isinstance(answer, Answer)
    assert (answer.logits, answer.single, answer.attempts, answer.rounds) == (b"logits", False, 1, FACTS.blocks)
    assert (answer.gather_s, answer.latency_s, answer.lost) == (1.5, 2.5, ())
    assert answer.input_bytes == 3 * TOKENS // 4 * ROW_BYTES
    assert [report.shard.peer for report in answer.boards] == [peer(i) for i in range(BOARDS)]


def test_class_tokens_reach_the_head_in_ring_order() -> None:
    machine, _ = started()
    for origin in (2, 0, 3):
        machine.feature(feature(origin, epoch=ALL), VIEW, 1.0)
    (head,) = machine.feature(feature(1, epoch=ALL), VIEW, 1.0)
    assert isinstance(head, RunHead)
    assert head.features == tuple(bytes([i]) * 4 * WIDTH for i in range(BOARDS))


def test_what_no_attempt_with_others_brings_to_an_end_the_asked_board_does_alone() -> None:
    machine, _ = started(submission(), view(6))
    alive = list(range(6))
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert machine.phase is Phase.RUNNING
        effects = machine.peer_lost(peer(alive.pop()), view(6), 1.0)
        if attempt < MAX_ATTEMPTS:
            messages = assigned(effects)
            assert messages.keys() == {peer(i) for i in alive}
            assert {m.attempt for m in messages.values()} == {attempt + 1}
    assert names(effects) == [*["Cancel"] * 4, "RunWhole"]
    answer = ended(machine.logits(LOGITS, 2.0))
    assert isinstance(answer, Answer)
    assert (answer.single, answer.attempts, answer.lost) == (True, MAX_ATTEMPTS + 1, (peer(5), peer(4), peer(3)))
    assert machine.cancel() == []


def test_before_it_would_be_too_late_the_asked_board_goes_on_alone() -> None:
    machine, _ = started()
    assert machine.deadline() == RESCUE_AT
    assert machine.timer(VIEW, RESCUE_AT - 0.01) == []
    assert names(machine.timer(VIEW, RESCUE_AT)) == [*["Cancel"] * BOARDS, "RunWhole"]
    assert machine.deadline() == 100.0
    answer = ended(machine.logits(LOGITS, 99.0))
    assert isinstance(answer, Answer)
    assert (answer.single, answer.attempts, answer.degraded) == (True, 2, False)


@pytest.mark.parametrize(("alone_s", "rescue_at"), [(1.0, 80.0), (10.0, 70.0), (40.0, 100.0)])
def test_a_slow_board_goes_on_alone_earlier_and_not_where_it_has_no_hope(alone_s: float, rescue_at: float) -> None:
    slow = replace(VIEW.members[peer(0)], speed=TOKENS * FACTS.blocks / alone_s)
    machine, _ = started(submission(), replace(VIEW, members={**VIEW.members, peer(0): slow}))
    assert machine.deadline() == rescue_at


@pytest.mark.parametrize(
    ("run_s", "alone_s", "then"),
    [
        (10.0, 20.0, "anew"),
        (40.0, 2.0, "alone"),
        (40.0, 20.0, "without"),  # half of the time is left, and three times 20 s are not
        (40.0, None, "without"),  # nobody knows what it takes
        (None, 2.0, "anew"),
    ],
)
def test_where_another_run_would_come_too_late_the_asked_board_alone_comes_before_a_degraded_answer(
    run_s: float | None, alone_s: float | None, then: str
) -> None:
    speed = TOKENS * FACTS.blocks / alone_s if alone_s else None
    known = replace(VIEW, members={**VIEW.members, peer(0): replace(VIEW.members[peer(0)], speed=speed)})
    patience = Patience()
    if run_s is not None:
        patience.learn(FACTS.model, block_s=1.0, run_s=run_s)
    machine, effects = started(submission(), known, patience=patience)
    allowed_s = {message.degrade_ms / 1000 for message in assigned(effects).values()}
    assert allowed_s == {min(1.5 * (run_s or 0.0), 3 * alone_s if alone_s else math.inf)}
    for origin in range(3):
        machine.feature(feature(origin, epoch=ALL), known, 50.0)
    effects = machine.peer_lost(peer(3), known, 50.0)
    assert (
        names(effects)
        == {
            "anew": [*["Cancel"] * 4, *["Assign"] * 3],
            "alone": [*["Cancel"] * 4, "RunWhole"],
            "without": ["RunHead"],
        }[then]
    )


def test_no_round_takes_so_much_of_the_time_left_that_nothing_fits_behind_it() -> None:
    (message, *_) = assigned(started(submission(deadline_at=2.0))[1]).values()
    assert message.round_ms == 500


@pytest.mark.parametrize(
    ("allowed", "exchange", "first"),
    [
        (False, Exchange.DIRECT, FACTS.blocks),
        (True, Exchange.DIRECT, -(-FACTS.blocks // 3)),
        (True, Exchange.RING, FACTS.blocks),
    ],
)
def test_where_a_degraded_answer_is_allowed_boards_are_done_without_after_a_third_of_the_blocks(
    *, allowed: bool, exchange: Exchange, first: int
) -> None:
    _, effects = started(replace(submission(exchange=exchange), allow_degraded=allowed))
    assert {message.degrade_from for message in assigned(effects).values()} == {first}


def test_who_stayed_out_is_not_waited_for_in_the_next_request_unless_it_is_asked_for() -> None:
    patience = Patience()
    machine, _ = started(submission(), patience=patience)
    machine.failed(failed(1, epoch=ALL, missing=(3,)), VIEW, 1.0)
    _, effects = started(submission(), patience=patience, now=1.5)
    assert assigned(effects).keys() == {peer(0), peer(1), peer(2)}
    _, effects = started(submission(boards=4), patience=patience, now=1.5)
    assert assigned(effects).keys() == {peer(i) for i in range(BOARDS)}
    _, effects = started(submission(), patience=patience, now=10.0)
    assert assigned(effects).keys() == {peer(i) for i in range(BOARDS)}


def test_a_broken_link_is_the_membership_to_judge() -> None:
    patience = Patience()
    machine, _ = started(submission(), patience=patience)
    machine.peer_lost(peer(3), VIEW, 1.0)
    assert not patience.absent(1.0)


def test_every_further_attempt_is_more_patient() -> None:
    machine, effects = started(submission(), view(6))
    patience_ms = []
    for lost in (5, 4):
        patience_ms += [assigned(effects)[peer(1)].round_ms]
        effects = machine.peer_lost(peer(lost), view(6), 1.0)
    patience_ms += [assigned(effects)[peer(1)].round_ms]
    assert patience_ms == [patience_ms[0], 2 * patience_ms[0], 4 * patience_ms[0]]


def test_the_last_board_goes_on_alone_without_traces_of_the_attempt() -> None:
    machine, _ = started(submission(boards=2))
    two = epoch_of(0, 1)
    machine.feature(feature(0, epoch=two), VIEW, 1.0)
    effects = machine.peer_lost(peer(1), VIEW, 1.0)
    machine.check()
    assert names(effects) == ["Cancel", "Cancel", "RunWhole"]
    answer = ended(machine.logits(LOGITS, 2.0))
    assert isinstance(answer, Answer)
    assert (answer.single, answer.attempts, answer.rounds, answer.lost) == (True, 2, 0, (peer(1),))


def test_a_board_that_came_back_meanwhile_is_not_asked_by_its_old_incarnation() -> None:
    machine, _ = started()
    effects = machine.peer_lost(peer(1), changed(VIEW, 2, status=Status.DEAD), 1.0)
    assert assigned(effects).keys() == {peer(0), peer(3)}


def test_no_retry_when_the_time_is_over() -> None:
    machine, _ = started()
    effects = machine.peer_lost(peer(1), VIEW, 100.0)
    assert names(effects) == [*["Cancel"] * BOARDS, "Deliver"]
    assert isinstance(ended(effects), DeadlineExceeded)


def test_an_input_that_breaks_two_boards_is_not_carried_to_a_third() -> None:
    machine, _ = started()
    broke = FailureReason.STAGE_FAILED
    effects = machine.failed(failed(2, epoch=ALL, reason=broke), VIEW, 1.0)
    assert assigned(effects).keys() == {peer(0), peer(1), peer(3)}
    # The second board of the same attempt broke as well; that attempt is over.
    assert machine.failed(failed(3, epoch=ALL, reason=broke), VIEW, 1.0) == []
    effects = machine.failed(failed(1, epoch=epoch_of(0, 1, 3), reason=broke, attempt=2), VIEW, 1.0)
    assert names(effects) == ["Cancel", "Cancel", "Cancel", "Deliver"]
    assert isinstance(ended(effects), RemoteStageError)


@pytest.mark.parametrize(
    ("reason", "origin", "missing", "exchange", "lost"),
    [
        (FailureReason.BUSY, 2, (), Exchange.DIRECT, {2}),
        (FailureReason.UNKNOWN_MODEL, 2, (), Exchange.DIRECT, {2}),
        (FailureReason.UNKNOWN_PEER, 2, (), Exchange.RING, {2}),
        (FailureReason.BAD_PAYLOAD, 2, (3,), Exchange.RING, {3}),
        (FailureReason.ROUND_TIMEOUT, 0, (2, 3), Exchange.DIRECT, {2, 3}),
        (FailureReason.ROUND_TIMEOUT, 2, (0,), Exchange.DIRECT, {2}),  # who does not hear the asked board
        (FailureReason.ROUND_TIMEOUT, 2, (0, 1, 3), Exchange.DIRECT, {2}),
        (FailureReason.ROUND_TIMEOUT, 0, (1, 2, 3), Exchange.RING, {3}),  # 3 is what 0 hears the others through
        (FailureReason.ROUND_TIMEOUT, 1, (2, 3), Exchange.RING, {3}),
        (FailureReason.ROUND_TIMEOUT, 2, (3,), Exchange.RING, {3}),
        (FailureReason.ROUND_TIMEOUT, 2, (700,), Exchange.DIRECT, {2}),
        (FailureReason.ROUND_TIMEOUT, 2, (2,), Exchange.DIRECT, {2}),
    ],
)
def test_who_is_left_out(
    reason: FailureReason, origin: int, missing: tuple[int, ...], exchange: Exchange, lost: set[int]
) -> None:
    machine, _ = started(submission(exchange=exchange))
    effects = machine.failed(failed(origin, epoch=ALL, reason=reason, missing=missing), VIEW, 1.0)
    assert assigned(effects).keys() == {peer(i) for i in range(BOARDS) if i not in lost}


@pytest.mark.parametrize("reason", FailureReason)
@pytest.mark.parametrize("missing", [(), (0,), (0, 1), (700,)])
def test_a_failure_reported_for_the_asked_board_never_leaves_it_without_a_coordinator(
    reason: FailureReason, missing: tuple[int, ...]
) -> None:
    machine, _ = started()
    effects = machine.failed(failed(0, epoch=ALL, reason=reason, missing=missing), VIEW, 1.0)
    machine.check()
    again = assigned(effects)
    assert isinstance(ended(effects), Refused | RemoteStageError) if not again else peer(0) in again


def test_endings_have_names() -> None:
    assert isinstance(ended(running().cancel()), Cancelled)
    assert isinstance(ended(running().timer(VIEW, 100.0)), DeadlineExceeded)
    assert isinstance(ended(answering().logits(LOGITS, 100.0)), DeadlineExceeded)
    assert isinstance(ended(answering().answer_failed(BROKEN)), RemoteStageError)


def test_the_gather_timer_counts_from_the_own_class_token() -> None:
    machine, _ = started()
    assert machine.deadline() == RESCUE_AT
    machine.feature(feature(1, epoch=ALL), VIEW, 1.0)
    assert machine.deadline() == RESCUE_AT
    machine.feature(feature(0, epoch=ALL), VIEW, 2.0)
    machine.feature(feature(0, epoch=ALL), VIEW, 4.0)
    assert machine.deadline() == 2.0 + FIRST_ROUND_S
    assert assigned(machine.timer(VIEW, 2.0 + FIRST_ROUND_S)).keys() == {peer(0), peer(1)}
    assert machine.deadline() == RESCUE_AT
