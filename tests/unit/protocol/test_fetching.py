"""The fetch machine event by event: whom it asks for what, and what it does with an answer it did not ask for."""

import hashlib
from dataclasses import replace

import pytest

from peer.protocol.bulk_messages import CHUNK_BYTES, MANIFEST, FetchChunk, FetchRefusal, FetchRefused, FetchRequest
from peer.protocol.fetch_events import (
    Answered,
    CheckFile,
    DropFile,
    FetchEffect,
    FileChecked,
    GiveUp,
    HolderLost,
    HoldersChanged,
    Install,
    NotStored,
    Prepare,
    Prepared,
    SendFetch,
    Stored,
    TimerDue,
    WriteChunk,
)
from peer.protocol.fetch_parts import FetchPace, Phase
from peer.protocol.fetching import Fetching
from peer.protocol.holders import most_held
from peer.protocol.profile import BoardProfile, StageTimes
from peer.protocol.serving import Serving, ServingPace
from peer.protocol.types import Endpoint, Incarnation, Member, ModelId, PeerId, Status, View

ME, A, B, C = (PeerId(f"{n:016x}") for n in range(4))
BYTES = b"the manifest"
MODEL = ModelId(hashlib.sha256(BYTES).hexdigest())
OTHER = ModelId("ee" * 32)
PACE = FetchPace(window=4, patience_s=3.0, give_up_s=60.0)
BIG = 2 * CHUNK_BYTES + 5


def member(peer: PeerId, *models: ModelId, status: Status = Status.ALIVE, incarnation: int = 1) -> Member:
    return Member(
        peer=peer,
        name=f"board-{peer[-1]}",
        endpoint=Endpoint(host="h", port=7000),
        public_key=bytes(32),
        incarnation=Incarnation(incarnation),
        status=status,
        models=frozenset(models),
    )


def view(*members: Member) -> View:
    return View(self_id=ME, members={m.peer: m for m in (member(ME), *members)})


def begun(*members: Member, manifest: bytes = b"") -> tuple[Fetching, list[FetchEffect]]:
    machine = Fetching(model=MODEL, view=view(*members), pace=PACE, now=0.0, manifest=manifest)
    assert machine.deadline() == 0.0
    return machine, machine.handle(TimerDue(), 0.0)


def asked(effects: list[FetchEffect]) -> list[FetchRequest]:
    return [effect.message for effect in effects if isinstance(effect, SendFetch)]


def holder(effects: list[FetchEffect], request: int) -> PeerId:
    (peer,) = [e.to.peer for e in effects if isinstance(e, SendFetch) and e.message.request == request]
    return peer


def answer(request: FetchRequest, by: PeerId, data: bytes) -> FetchChunk:
    body = data[request.offset : request.offset + request.length]
    return FetchChunk(
        sender=by,
        request=request.request,
        model=request.model,
        file=request.file,
        offset=request.offset,
        size=len(data),
        body=body,
    )


def in_files(*members: Member, sizes: tuple[int, ...] = (BIG,)) -> tuple[Fetching, list[FetchEffect]]:
    """A machine that has the manifest and asks for the files."""
    machine, effects = begun(*members, manifest=BYTES)
    assert effects == [Prepare(manifest=BYTES)]
    return machine, machine.handle(Prepared(sizes=sizes, have=frozenset()), 0.0)


def test_the_manifest_comes_first_and_its_hash_is_checked_before_anybody_reads_it() -> None:
    machine, effects = begun(member(A, MODEL), member(B, MODEL))
    (request,) = asked(effects)
    assert (request.file, request.offset, request.length) == (MANIFEST, 0, CHUNK_BYTES)
    by = holder(effects, request.request)
    effects = machine.handle(Answered(message=answer(request, by, b"another one!"), sender=by), 0.1)
    (again,) = asked(effects)
    assert holder(effects, again.request) == ({A, B} - {by}).pop()
    assert not [e for e in effects if isinstance(e, Prepare)]
    effects = machine.handle(Answered(message=answer(again, {A, B}.difference({by}).pop(), BYTES), sender=None), 0.2)
    assert effects == [Prepare(manifest=BYTES)]
    assert machine.phase is Phase.PREPARING
    assert machine.deadline() is None


def test_a_long_manifest_comes_from_one_board() -> None:
    data = bytes(range(256)) * 3000
    model = ModelId(hashlib.sha256(data).hexdigest())
    machine = Fetching(model=model, view=view(member(A, model), member(B, model)), pace=PACE, now=0.0)
    effects = machine.handle(TimerDue(), 0.0)
    (first,) = asked(effects)
    by = holder(effects, first.request)
    effects = machine.handle(Answered(message=answer(first, by, data), sender=by), 0.1)
    rest = asked(effects)
    assert [r.offset for r in rest] == [CHUNK_BYTES, 2 * CHUNK_BYTES]
    assert {holder(effects, r.request) for r in rest} == {by}
    machine.handle(Answered(message=answer(rest[0], by, data), sender=by), 0.2)
    # Its board goes: what came from it alone proves nothing about the rest, so the other one is asked from the start.
    effects = machine.handle(HoldersChanged(view=view(member(({A, B} - {by}).pop(), model))), 0.3)
    assert [(r.file, r.offset) for r in asked(effects)] == [(MANIFEST, 0)]


def test_parts_are_spread_and_no_more_are_open_than_the_window() -> None:
    machine, effects = in_files(member(A, MODEL), member(B, MODEL), sizes=(9 * CHUNK_BYTES,))
    requests = asked(effects)
    assert len(requests) == PACE.window
    by = [holder(effects, r.request) for r in requests]
    assert by.count(A) == by.count(B) == 2
    effects = machine.handle(Answered(message=answer(requests[0], by[0], bytes(9 * CHUNK_BYTES)), sender=by[0]), 0.1)
    assert isinstance(effects[0], WriteChunk)
    assert len(asked(effects)) == 1
    machine.check()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offset": CHUNK_BYTES}, "another part"),
        ({"file": 2}, "another part"),
        ({"model": OTHER}, "another part"),
        ({"size": BIG + 1}, "another size"),
        ({"body": bytes(CHUNK_BYTES - 1)}, "another size"),
        ({"body": b""}, "another size"),
    ],
)
def test_a_wrong_answer_is_not_written_and_its_board_not_asked_again(change: dict[str, object], words: str) -> None:
    machine, effects = in_files(member(A, MODEL))
    request = asked(effects)[0]
    wrong = replace(answer(request, A, bytes(BIG)), **change)  # type: ignore[arg-type]
    effects = machine.handle(Answered(message=wrong, sender=A), 0.1)
    (gave_up,) = effects
    assert isinstance(gave_up, GiveUp)
    assert words in gave_up.reason
    assert "board-1" in gave_up.reason
    assert machine.phase is Phase.FAILED
    assert machine.handle(TimerDue(), 99.0) == []


def test_answers_nobody_asked_for_change_nothing() -> None:
    machine, effects = in_files(member(A, MODEL), member(B, MODEL))
    request = asked(effects)[0]
    by = holder(effects, request.request)
    other = ({A, B} - {by}).pop()
    good = answer(request, by, bytes(BIG))
    for message, sender in (
        (good, other),  # under another's key
        (replace(good, sender=other), other),  # it was not the one that was asked
        (replace(good, request=good.request + 1000), by),
        (FetchRefused(sender=other, request=request.request, reason=FetchRefusal.NOT_HELD), other),
    ):
        assert machine.handle(Answered(message=message, sender=sender), 0.1) == []
    assert machine.counters["unasked"] == 4
    assert isinstance(machine.handle(Answered(message=good, sender=by), 0.2)[0], WriteChunk)


def test_a_part_is_taken_once_and_a_late_one_still_counts() -> None:
    machine, effects = in_files(member(A, MODEL), member(B, MODEL))
    request = asked(effects)[0]
    by = holder(effects, request.request)
    good = answer(request, by, bytes(BIG))
    effects = machine.handle(TimerDue(), 3.0)
    again = [r for r in asked(effects) if r.offset == request.offset]
    machine.check()
    assert isinstance(machine.handle(Answered(message=good, sender=by), 3.1)[0], WriteChunk)
    machine.check()
    assert machine.counters["late"] == 1
    for other in again:
        late = answer(other, holder(effects, other.request), bytes(BIG))
        assert machine.handle(Answered(message=late, sender=late.sender), 3.2) == []
    assert machine.handle(Answered(message=good, sender=by), 3.3) == []


@pytest.mark.parametrize("reason", [FetchRefusal.NOT_HELD, FetchRefusal.NO_SUCH_PART, FetchRefusal.UNREADABLE])
def test_a_board_that_cannot_give_is_done_without(reason: FetchRefusal) -> None:
    machine, effects = in_files(member(A, MODEL), member(B, MODEL))
    request = asked(effects)[0]
    by = holder(effects, request.request)
    effects = machine.handle(
        Answered(message=FetchRefused(sender=by, request=request.request, reason=reason), sender=by), 0.1
    )
    assert {e.to.peer for e in effects if isinstance(e, SendFetch)} == {A, B} - {by}


def test_a_busy_board_is_asked_again_in_a_moment() -> None:
    machine, effects = in_files(member(A, MODEL), sizes=(1,))
    (request,) = asked(effects)
    busy = FetchRefused(sender=A, request=request.request, reason=FetchRefusal.BUSY)
    assert machine.handle(Answered(message=busy, sender=A), 1.0) == []
    assert machine.deadline() == pytest.approx(1.0 + PACE.busy_s)
    assert len(asked(machine.handle(TimerDue(), 1.0 + PACE.busy_s))) == 1


def test_what_a_lost_or_restarted_board_was_asked_for_is_asked_of_others() -> None:
    for event in (
        HolderLost(peer=A),
        HoldersChanged(view=view(member(B, MODEL))),
        HoldersChanged(view=view(member(A, MODEL, status=Status.SUSPECT), member(B, MODEL))),
    ):
        machine, effects = in_files(member(A, MODEL), member(B, MODEL))
        lost = {r.offset for r in asked(effects) if holder(effects, r.request) == A}
        effects = machine.handle(event, 0.5)
        assert {r.offset for r in asked(effects)} == lost
        assert {e.to.peer for e in effects if isinstance(e, SendFetch)} == {B}
        machine.check()
    machine.handle(HolderLost(peer=C), 0.6)
    machine.check()


def test_a_file_that_is_wrong_twice_from_one_board_is_that_boards_fault() -> None:
    machine, effects = in_files(member(A, MODEL), member(B, MODEL), sizes=(2 * CHUNK_BYTES,))
    data = bytes(2 * CHUNK_BYTES)
    for request in asked(effects):
        last = machine.handle(
            Answered(message=answer(request, holder(effects, request.request), data), sender=None), 0.1
        )
    assert last[-1] == CheckFile(file=1)
    effects = machine.handle(FileChecked(file=1, right=False), 0.2)
    assert effects[0] == DropFile(file=1)
    alone = {e.to.peer for e in effects if isinstance(e, SendFetch)}
    assert len(alone) == 1
    for request in asked(effects):
        machine.handle(Answered(message=answer(request, *alone, data), sender=None), 0.3)
    effects = machine.handle(FileChecked(file=1, right=False), 0.4)
    assert {e.to.peer for e in effects if isinstance(e, SendFetch)} == {A, B} - alone
    for request in asked(effects):
        machine.handle(Answered(message=answer(request, *({A, B} - alone), data), sender=None), 0.5)
    assert machine.handle(FileChecked(file=1, right=True), 0.6) == [Install()]
    assert machine.handle(Stored(), 0.7) == []
    assert machine.phase is Phase.DONE
    machine.check()


def test_an_earlier_run_is_continued_and_empty_files_need_nobody() -> None:
    machine, _ = begun(member(A, MODEL), manifest=BYTES)
    effects = machine.handle(Prepared(sizes=(BIG, 0, 7), have=frozenset({(1, 0), (1, 2), (3, 0)})), 0.0)
    assert [e for e in effects if isinstance(e, CheckFile)] == [CheckFile(file=2), CheckFile(file=3)]
    assert [(r.file, r.offset) for r in asked(effects)] == [(1, CHUNK_BYTES)]
    assert machine.progress().resumed_bytes == CHUNK_BYTES + 5 + 7


def test_a_kept_manifest_that_is_damaged_is_asked_for() -> None:
    _, effects = begun(member(A, MODEL), manifest=BYTES[:-1])
    assert [r.file for r in asked(effects)] == [MANIFEST]


def test_a_disk_that_refuses_ends_it_with_its_own_words() -> None:
    machine, _ = in_files(member(A, MODEL))
    assert machine.handle(NotStored(reason="the disk is full; make room"), 1.0) == [
        GiveUp(reason="the disk is full; make room")
    ]


def test_only_boards_that_answer_and_hold_it_are_asked() -> None:
    unfit = member(B, MODEL, status=Status.INCOMPATIBLE)
    _, effects = begun(member(A, OTHER), unfit, member(C, MODEL, status=Status.DEAD))
    assert [e.to.peer for e in effects if isinstance(e, SendFetch)] == [B]


def test_the_rings_model_is_what_most_boards_hold() -> None:
    assert most_held(view()) is None
    assert most_held(view(member(A, MODEL), member(B, OTHER), member(C, OTHER))) == OTHER
    assert most_held(view(member(A, MODEL), member(B, OTHER))) == min(MODEL, OTHER)
    assert most_held(view(member(A, MODEL, status=Status.DEAD))) is None


def test_of_models_that_all_hold_the_usual_one_is_taken() -> None:
    both = (MODEL, OTHER)
    for usual in both:
        told = BoardProfile(models=(StageTimes(model=usual, points=(), whole_s=1.0, head_s=0.0, codecs=()),))
        assert most_held(view(replace(member(A, *both), profile=told), member(B, *both))) == usual


def question(peer: PeerId, number: int) -> FetchRequest:
    return FetchRequest(sender=peer, request=number, model=MODEL, file=1, offset=0, length=1)


def test_parts_are_given_in_turn_and_at_a_pace() -> None:
    pace = ServingPace(chunks_per_s=10.0, burst=2.0, waiting_per_board=3, boards=2)
    serving = Serving(me=ME, pace=pace, now=0.0)
    assert serving.deadline() is None
    assert [serving.asked(question(A, n)) for n in range(3)] == [None] * 3
    assert serving.asked(question(B, 9)) is None
    refusal = serving.asked(question(A, 3))
    assert refusal == FetchRefused(sender=ME, request=3, reason=FetchRefusal.BUSY)
    assert serving.asked(question(C, 0)) is not None
    serving.check()
    assert [(r.sender, r.request) for r in serving.due(0.0)] == [(A, 0), (B, 9)]
    assert serving.due(0.05) == []
    assert serving.deadline() == pytest.approx(0.1)
    assert [(r.sender, r.request) for r in serving.due(0.1)] == [(A, 1)]
    serving.gone(A)
    assert serving.deadline() is None
    serving.check()
