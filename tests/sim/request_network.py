"""A network of request machines in virtual time: a heap of (time, sequence, action), seeded faults, no clock or socket.

The compute is pretended: its codes and class tokens say which attempt, board and block they belong to, so that every
mixture of attempts, boards or blocks is noticed where it would be used.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from pretended_compute import (
    BLOCKS,
    FACTS,
    MODEL,
    ROW_BYTES,
    TOKENS,
    WIDTH,
    any_profile,
    codes_of,
    content,
    feature_of,
    logits_of,
)

from peer.errors import PeerError
from peer.protocol import wire
from peer.protocol.effects import (
    Answer,
    Attend,
    Begin,
    Deliver,
    Effect,
    Forget,
    Query,
    RunErrand,
    RunHead,
    RunWhole,
    Send,
)
from peer.protocol.events import (
    AnswerFailed,
    CancelRequested,
    CodesReady,
    ComputeFailed,
    ErrandDone,
    Event,
    LogitsReady,
    MessageReceived,
    PeerLost,
    QueryDone,
    ShardDone,
    Submission,
    Submitted,
    TimerDue,
    ViewChanged,
)
from peer.protocol.messages import Assign, Codes, DataMessage
from peer.protocol.requests import RequestLimits, Requests
from peer.protocol.types import (
    AttemptKey,
    Endpoint,
    Exchange,
    FailureReason,
    Incarnation,
    InputKind,
    Member,
    PeerId,
    RequestId,
    Status,
    Timing,
    View,
)

LIMITS = RequestLimits(coordinated=4, participated=6, early_codes=24, early_bytes=4096, early_s=0.5, remembered=32)
TICK_S = 0.05  # how coarsely the daemon looks at its timers


@dataclass(slots=True, kw_only=True)
class Faults:
    """Rates are per message or per compute step."""

    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0  # a payload that a codec refuses
    truncate: float = 0.0
    stage: float = 0.0  # a compute step that raises
    reorder: bool = False
    delay_s: float = 0.002
    slow: dict[int, float] = field(default_factory=dict)  # board -> factor of its compute times
    cut: set[tuple[int, int]] = field(default_factory=set)  # (from, to)
    silent: float = 0.0  # share of messages to a crashed board that its sender does not notice


class Violation(AssertionError):
    """An invariant does not hold; the message holds the seed and the story."""


@dataclass(slots=True)
class _Work:
    assign: Assign
    me: int
    block: int = 0


class Board:
    """One machine, its compute and its timer."""

    def __init__(self, network: "Network", index: int, incarnation: int) -> None:
        self.network, self.index, self.incarnation = network, index, incarnation
        self.up = True
        self.work: dict[AttemptKey, _Work] = {}
        self.free_at = 0.0
        self.timer_at: float | None = None
        self.machine = Requests(view=network.view_of(index), models={MODEL: FACTS}, limits=LIMITS)


class Network:
    """`boards` machines; `step` performs the next action of the heap."""

    def __init__(self, seed: int, boards: int, faults: Faults) -> None:
        self.seed, self.random, self.faults = seed, Random(seed), faults
        self.now = 0.0
        self.story: deque[str] = deque(maxlen=120)
        self.submitted: dict[RequestId, tuple[int, Submission, float]] = {}
        self.delivered: dict[RequestId, tuple[float, Answer | PeerError]] = {}
        self.orphans: set[RequestId] = set()  # their asker crashed
        self.errands = 0  # whole requests that another board computed
        self.incomplete: set[AttemptKey] = set()  # some board attended without another's codes
        self.heads: dict[RequestId, tuple[int, int]] = {}  # class tokens that were used, of how many boards
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._last: dict[tuple[int, int], float] = {}
        # Some boards are worth asking, some are not, and some have not told: the planner takes every way in turn.
        self.profiles = [any_profile(self.random) for _ in range(boards)]
        self._status = {i: (Status.ALIVE, 1) for i in range(boards)}
        self.boards = [Board(self, i, 1) for i in range(boards)]

    def view_of(self, me: int) -> View:
        members = [self._member(i, *known) for i, known in self._status.items()]
        members[me] = self._member(me, Status.ALIVE, self._status[me][1])
        return View(self_id=_peer(me), members={member.peer: member for member in members})

    def _member(self, index: int, status: Status, incarnation: int) -> Member:
        return Member(
            peer=_peer(index),
            name=f"b{index}",
            endpoint=Endpoint(host=f"b{index}", port=1),
            public_key=bytes(32),
            incarnation=Incarnation(incarnation),
            status=status,
            models=frozenset({MODEL}),
            profile=self.profiles[index],
        )

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + delay_s, next(self._sequence), action))

    def step(self) -> bool:
        """The next action; False when nothing is left to happen."""
        if not self._heap:
            return False
        self.now, _, action = heapq.heappop(self._heap)
        try:
            action()
        except Violation:
            raise
        except Exception as problem:
            raise self.violation(f"{type(problem).__name__}: {problem}") from problem
        return True

    def run(self) -> None:
        """Until nothing is left to happen, then look whether everything ended well."""
        for _ in range(60_000):
            if not self.step():
                break
        else:
            raise self.violation("the network never comes to rest")
        self.check_end()

    def violation(self, what: str) -> Violation:
        story = "\n".join(self.story)
        return Violation(f"seed {self.seed}, t={self.now:.3f}: {what}\n{story}")

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            raise self.violation(what)

    def submit(self, board: int, submission: Submission) -> None:
        if not self.boards[board].up:
            return
        self.submitted[submission.request] = (board, submission, self.now)
        self.dispatch(self.boards[board], Submitted(submission=submission))

    def cancel(self, request: RequestId) -> None:
        if request in self.submitted and request not in self.delivered and request not in self.orphans:
            board = self.boards[self.submitted[request][0]]
            self.dispatch(board, CancelRequested(request=request))
            self.expect(request in self.delivered, f"{request:x} was cancelled and goes on")

    def crash(self, index: int, *, noticed_s: float) -> None:
        """Power loss; the others learn of it, through links or membership, `noticed_s` later."""
        board = self.boards[index]
        if not board.up:
            return
        self.story.append(f"{self.now:.3f} b{index} crashes")
        board.up = False
        self.orphans |= {r for r, (b, _, _) in self.submitted.items() if b == index and r not in self.delivered}
        self.at(noticed_s, lambda: self._notice(board))

    def restart(self, index: int) -> None:
        if self.boards[index].up:
            return
        incarnation = self.boards[index].incarnation + 1
        self.story.append(f"{self.now:.3f} b{index} starts again")
        self._status[index] = (Status.ALIVE, incarnation)
        self.boards[index] = Board(self, index, incarnation)
        self.publish()

    def _notice(self, board: Board) -> None:
        if self.boards[board.index] is board:
            self._status[board.index] = (Status.DEAD, board.incarnation)
        for other in self.boards:
            if other.up and self.random.random() < 0.5:
                self.dispatch(other, PeerLost(peer=_peer(board.index)))
        self.publish()

    def publish(self) -> None:
        for board in self.boards:
            if board.up:
                self.dispatch(board, ViewChanged(view=self.view_of(board.index)))

    def dispatch(self, board: Board, first: Event) -> None:
        """One event and what follows from it on that board, as the data plane does it."""
        pending: deque[Event] = deque((first,))
        while pending:
            event = pending.popleft()
            effects = board.machine.handle(event, self.now)
            self.story.append(f"{self.now:.3f} b{board.index} {_short(event)} -> {[_short(e) for e in effects]}")
            try:
                board.machine.check()
            except AssertionError as problem:
                raise self.violation(f"check of b{board.index}: {problem}") from problem
            for effect in effects:
                following = self._perform(board, effect)
                if following is not None:
                    pending.append(following)
        self._arm(board)

    def _arm(self, board: Board) -> None:
        deadline = board.machine.deadline()
        if deadline is None or (board.timer_at is not None and board.timer_at <= deadline + TICK_S):
            return
        due_at = board.timer_at = max(self.now, deadline) + self.random.uniform(0.001, TICK_S)
        self._later(board, due_at - self.now, lambda: self._timer(board, due_at))

    def _timer(self, board: Board, due_at: float) -> None:
        if board.timer_at != due_at:
            return  # an earlier one took its place
        board.timer_at = None
        self.dispatch(board, TimerDue())

    def _later(self, board: Board, delay_s: float, action: Callable[[], None]) -> None:
        """An action that dies with the board."""
        self.at(delay_s, lambda: action() if board.up and self.boards[board.index] is board else None)

    def _perform(self, board: Board, effect: Effect) -> Event | None:
        match effect:
            case Send(to=to, message=message):
                return self._send(board, _index(to), message)
            case Deliver(request=request, result=result):
                self.expect(request in self.submitted, "an answer nobody asked for")
                self.expect(request not in self.delivered, f"{request:x} was delivered twice")
                self.delivered[request] = (self.now, result)
            case Forget(key=key):
                board.work.pop(key, None)
            case RunWhole() | RunHead():
                self._answer(board, effect)
            case RunErrand():
                self._errand(board, effect)
            case Begin() | Query() | Attend():
                self._compute(board, effect)
        return None

    def _send(self, board: Board, to: int, message: DataMessage) -> Event | None:
        if to == board.index:
            return MessageReceived(message=message)
        target, random, faults = self.boards[to], self.random, self.faults
        if self._status[to][0] is Status.DEAD or (not target.up and random.random() >= faults.silent):
            return PeerLost(peer=_peer(to))
        if (board.index, to) in faults.cut or random.random() < faults.loss:
            self.story.append(f"{self.now:.3f} lost b{board.index}->b{to} {_short(message)}")
            return None
        copies = 2 if random.random() < faults.duplicate else 1
        for _ in range(copies):
            delay_s = random.expovariate(1 / faults.delay_s)
            link = (board.index, to)
            if not faults.reorder:
                delay_s = max(delay_s, self._last.get(link, 0.0) - self.now)
                self._last[link] = self.now + delay_s
            if board.incarnation % 2 or isinstance(message, Assign):
                message = wire.decode(wire.encode(message))  # type: ignore[assignment]  # a data message stays one
            damaged = self._damaged(message)
            self.at(delay_s, lambda damaged=damaged: self._arrive(board, target, damaged))  # type: ignore[misc]
        return None

    def _damaged(self, message: DataMessage) -> DataMessage:
        if isinstance(message, Codes) and self.random.random() < self.faults.corrupt:
            return replace(message, body=b"\xff" * len(message.body))
        if isinstance(message, Codes) and self.random.random() < self.faults.truncate:
            return replace(message, body=message.body[:-1])
        return message

    def _arrive(self, source: Board, target: Board, message: DataMessage) -> None:
        if target.up and self.boards[target.index] is target:
            self.dispatch(target, MessageReceived(message=message, sender=_peer(source.index)))
            self.expect(not target.machine.counters["forged"], f"b{target.index} took an honest message for forged")

    def _busy(self, board: Board, compute_s: float, event: Event) -> None:
        """The board computes one thing after the other; then the event comes."""
        compute_s *= self.random.uniform(0.5, 1.5) * self.faults.slow.get(board.index, 1.0)
        board.free_at = max(board.free_at, self.now) + compute_s
        self._later(board, board.free_at - self.now, lambda: self.dispatch(board, event))

    def _compute(self, board: Board, effect: Begin | Query | Attend) -> None:
        key = effect.key
        if isinstance(effect, Begin):
            self.expect(key not in board.work, f"{key} begins twice")
            board.work[key] = _Work(effect.assign, effect.me)
            self.expect(effect.assign.shards[effect.me].peer == _peer(board.index), "another board's shard")
            self._check_input(effect)
        work = board.work.get(key)
        if work is None:
            raise self.violation(f"{_short(effect)} of a forgotten attempt")
        failure: ComputeFailed | None = None
        if isinstance(effect, Attend):
            failure = self._check_payloads(work, effect)
            work.block += 1
        if self.random.random() < self.faults.stage:
            failure = ComputeFailed(key=key, reason=FailureReason.STAGE_FAILED, blamed=(), detail="stage\nbroke é")
        if failure is not None:
            self._busy(board, 0.002, failure)
        elif isinstance(effect, Query):
            self._busy(board, 0.002, QueryDone(key=key))
        elif work.block == BLOCKS:
            self._busy(board, 0.01, ShardDone(key=key, timing=Timing(), body=feature_of(work.assign, work.me)))
        else:
            body = b"" if len(work.assign.shards) == 1 else codes_of(work.assign, work.me, work.block)
            self._busy(board, 0.01, CodesReady(key=key, block=work.block, body=body))

    def _check_input(self, effect: Begin) -> None:
        assign = effect.assign
        rows = self.submitted[assign.request][1].rows
        tokens = assign.shards[effect.me].tokens
        if assign.input_kind is InputKind.FILE:
            self.expect(assign.body == self.submitted[assign.request][1].file, "another file")
            return
        images = [rows[i : i + TOKENS * ROW_BYTES] for i in range(0, len(rows), TOKENS * ROW_BYTES)]
        part = b"".join(image[tokens.start * ROW_BYTES : tokens.stop * ROW_BYTES] for image in images)
        self.expect(assign.body == part, "other rows than those of the shard")

    def _check_payloads(self, work: _Work, effect: Attend) -> ComputeFailed | None:
        others = [i for i in range(len(work.assign.shards)) if i != work.me]
        came = [p.origin for p in effect.payloads]
        if came != others:
            self.incomplete.add(effect.key)
            self.expect(came == [i for i in others if i in came], f"payloads of {came} for {others}")
            self.expect(work.assign.exchange is Exchange.DIRECT, "codes are done without in a ring")
            allowed = work.assign.degrade_ms > 0 or work.block >= work.assign.degrade_from
            self.expect(allowed, "nobody allowed to do without codes")
        blamed = []
        for payload in effect.payloads:
            self.expect(payload.tokens == work.assign.shards[payload.origin].tokens.count, "another number of tokens")
            expected = codes_of(work.assign, payload.origin, work.block)
            if payload.body == b"\xff" * len(expected):
                blamed.append(payload.origin)
            else:
                self.expect(payload.body == expected, f"codes of another attempt, board or block: {effect.key}")
        if not blamed:
            return None
        reason = FailureReason.BAD_PAYLOAD
        return ComputeFailed(key=effect.key, reason=reason, blamed=tuple(blamed), detail="codes were refused")

    def _answer(self, board: Board, effect: RunWhole | RunHead) -> None:
        _, submission, _ = self.submitted[effect.request]
        if isinstance(effect, RunWhole):
            self.expect(effect.rows == submission.rows, "other rows than those submitted")
        else:
            self.heads[effect.request] = self._head_of(effect)
        event: Event = LogitsReady(
            request=effect.request, timing=Timing(), body=logits_of(effect.request, effect.batch)
        )
        if self.random.random() < self.faults.stage / 4:
            event = AnswerFailed(request=effect.request, detail="head broke")
        self._busy(board, 0.02, event)

    def _errand(self, board: Board, effect: RunErrand) -> None:
        errand, (_, submission, _) = effect.errand, self.submitted[effect.errand.request]
        self.expect(errand.asker == _peer(self.submitted[errand.request][0]), "an errand of somebody else")
        self.expect(errand.body in (submission.rows, submission.file), "another input than was submitted")
        self.errands += 1
        event: Event = ErrandDone(key=effect.key, timing=Timing(), body=logits_of(errand.request, errand.batch))
        if self.random.random() < self.faults.stage:
            reason = FailureReason.STAGE_FAILED
            event = ComputeFailed(key=effect.key, reason=reason, blamed=(), detail="stage broke")
        self._busy(board, 0.02, event)

    def _head_of(self, effect: RunHead) -> tuple[int, int]:
        """How many class tokens of how many boards; they must be of one attempt, in the order of its shards."""
        length = 4 * WIDTH * effect.batch
        for attempt, boards in itertools.product(range(1, 4), range(1, len(self.boards) + 1)):
            known = [content("feature", effect.request, attempt, i, boards, length=length) for i in range(boards)]
            if list(effect.features) == [feature for feature in known if feature in effect.features]:
                return len(effect.features), boards
        raise self.violation("class tokens of several attempts, or in another order than the shards")

    def check_end(self) -> None:
        """Every request ended once and in time, and nothing of any of them is left."""
        for request, (index, submission, at) in self.submitted.items():
            if request in self.orphans:
                continue
            self.expect(request in self.delivered, f"{request:x} of b{index} never ended")
            ended_at, result = self.delivered[request]
            allowed = 1.1 * (submission.deadline_at - at) + 2 * TICK_S
            self.expect(ended_at - at <= allowed, f"{request:x} ended {ended_at - at:.3f} s after submission")
            if isinstance(result, Answer):
                self.expect(
                    result.logits == logits_of(request, submission.batch), f"{request:x} got another request's answer"
                )
                self._check_tokens(request, result)
        for board in self.boards:
            if board.up:
                self.expect(board.machine.idle and not board.work, f"b{board.index} is not idle: {board.work.keys()}")
                self.expect(board.machine.deadline() is None, f"b{board.index} still wants a timer")

    def _check_tokens(self, request: RequestId, answer: Answer) -> None:
        """All tokens were seen by everybody, or the answer says that it is not so."""
        covered = sum(board.shard.tokens.count for board in answer.boards)
        used, boards = (1, 1) if answer.single else self.heads[request]
        last = AttemptKey(request=request, attempt=answer.attempts)
        whole = answer.single or (used == boards and last not in self.incomplete)
        self.expect(whole == (not answer.degraded), f"{request:x}: degraded={answer.degraded} and whole={whole}")
        self.expect(answer.degraded or covered == TOKENS, f"{covered} tokens answered {request:x}")
        self.expect(not answer.degraded or bool(answer.lost), f"{request:x} is degraded and lost nobody")


def _peer(index: int) -> PeerId:
    return PeerId(f"{index + 1:016x}")


def _index(peer: PeerId) -> int:
    return int(peer, 16) - 1


def _short(what: object) -> str:
    match what:
        case Send(to=to, message=message):
            return f"Send b{_index(to)} {_short(message)}"
        case MessageReceived(message=message):
            return f"got {_short(message)}"
        case Codes(request=request, attempt=attempt, block=block, origin=origin):
            return f"Codes {request:x}.{attempt} block {block} of {origin}"
        case Deliver(result=result):
            return f"Deliver {type(result).__name__} {result if isinstance(result, PeerError) else ''}"
    key = getattr(what, "key", None)
    request = getattr(what, "request", None)
    name = type(what).__name__
    if key is not None:
        return f"{name} {key.request:x}.{key.attempt}"
    extra = f" missing {what.missing} {what.reason.name}" if hasattr(what, "missing") else ""
    attempt = f".{what.attempt} of {getattr(what, 'origin', '-')}" if hasattr(what, "attempt") else ""
    return f"{name}{'' if request is None else f' {request:x}'}{attempt}{extra}"
