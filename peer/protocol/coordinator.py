"""The asked board's side of one request: plan an attempt, hand out shards, gather class tokens, answer exactly once.

phase      event                                  -> phase     effects
(new)      begin, one board or mode single           ANSWERING RunWhole
(new)      begin, several boards                     RUNNING   Send Assign to every board of the attempt
RUNNING    Feature (last one missing)                ANSWERING RunHead
RUNNING    Failed, or a needed board lost            RUNNING   Send Cancel to the old attempt, Assign to the survivors
RUNNING    the same, no retry left or too late       DONE      Deliver(error)
ANSWERING  LogitsReady                               DONE      Deliver(Answer)
ANSWERING  AnswerFailed                              DONE      Deliver(error)
*          cancelled, deadline passed                DONE      Send Cancel, Deliver(error)
*          Feature or Failed of an older attempt     same      dropped
"""

from enum import Enum

from peer.errors import Cancelled, DeadlineExceeded, NotEnoughBoards, Refused, RemoteStageError, RequestError
from peer.protocol import ring
from peer.protocol.effects import Answer, BoardReport, Deliver, Effect, RunHead, RunWhole, Send
from peer.protocol.events import AnswerFailed, LogitsReady, Mode, Submission
from peer.protocol.messages import Assign, Cancel, Failed, Feature
from peer.protocol.partition import partition
from peer.protocol.types import (
    Epoch,
    FailureReason,
    InputKind,
    ModelFacts,
    PeerId,
    Shard,
    TokenRange,
    Traffic,
    View,
)

MAX_ATTEMPTS = 3
MAX_STAGE_FAILURES = 2  # an input that breaks two boards' compute is refused, not carried to a third


class Phase(Enum):
    RUNNING = "running"
    ANSWERING = "answering"
    DONE = "done"


class Coordinator:
    """State of one request on the board that was asked."""

    def __init__(self, *, submission: Submission, facts: ModelFacts, now: float) -> None:
        self.submission = submission
        self.phase = Phase.RUNNING
        self._facts = facts
        self._started_at = now
        self._gather_from = now
        self._attempt = 0
        self._epoch = Epoch(0)
        self._shards: tuple[Shard, ...] = ()
        self._features: dict[int, Feature] = {}
        self._excluded: set[PeerId] = set()
        self._lost: list[PeerId] = []
        self._stage_failures = 0
        self._input_bytes = 0
        self._single = False
        self._self_id = PeerId("")

    def deadline(self) -> float:
        return self.submission.deadline_at

    def begin(self, view: View, now: float) -> list[Effect]:
        """Plan the first attempt, or end at once with a typed error."""
        self._self_id = view.self_id
        wanted = self.submission
        alive = view.alive(wanted.model)
        if wanted.boards is not None and wanted.boards > len(alive):
            names = ", ".join(member.name for member in alive)
            return self._end(
                NotEnoughBoards(
                    f"{wanted.boards} boards were asked for and {len(alive)} can serve {self._facts.name} ({names}); "
                    "ask for fewer, or see who is missing with: peerctl members"
                )
            )
        boards = min(wanted.boards or len(alive), self._facts.tokens)
        if wanted.shares is not None and len(wanted.shares) != boards:
            return self._end(Refused(f"{len(wanted.shares)} shares were given for {boards} boards; give one per board"))
        if wanted.mode is Mode.SINGLE or (boards == 1 and wanted.mode is Mode.AUTO):
            return self._alone()
        return self._assign(view, ring.chosen(alive, view.self_id, boards), wanted.shares, now)

    def feature(self, message: Feature, now: float) -> list[Effect]:
        """One board is through; the last one completes the gather."""
        if self.phase is not Phase.RUNNING or message.attempt != self._attempt or message.epoch != self._epoch:
            return []
        batch, width = self.submission.batch, self._facts.width
        if message.origin >= len(self._shards) or len(message.body) != 4 * batch * width:
            return []
        self._features.setdefault(message.origin, message)
        if self._shards[message.origin].peer == self._self_id:
            self._gather_from = now
        if len(self._features) < len(self._shards):
            return []
        self.phase = Phase.ANSWERING
        bodies = tuple(self._features[i].body for i in range(len(self._shards)))
        wanted = self.submission
        return [RunHead(request=wanted.request, model=wanted.model, batch=wanted.batch, features=bodies)]

    def failed(self, message: Failed, view: View, now: float) -> list[Effect]:
        """A board reports that an attempt cannot go on: leave out who is to blame and try the others."""
        if self.phase is not Phase.RUNNING or message.attempt != self._attempt or message.epoch != self._epoch:
            return []
        if message.origin >= len(self._shards):
            return []
        reporter = self._shards[message.origin].peer
        blamed = {self._shards[i].peer for i in message.missing if i < len(self._shards)} or {reporter}
        if message.reason is FailureReason.STAGE_FAILED:
            self._stage_failures += 1
            if self._stage_failures >= MAX_STAGE_FAILURES or reporter == self._self_id:
                return self._end(RemoteStageError(f"board {reporter} could not compute: {message.detail}"))
        if self._self_id in blamed:
            # Somebody does not hear the asked board; leave out who says so instead of the one that coordinates.
            blamed = {reporter}
        return self._retry(blamed, view, now, why=f"board {reporter}: {message.detail}")

    def peer_lost(self, peer: PeerId, view: View, now: float) -> list[Effect]:
        """The link to a board of the attempt broke before its class token was here."""
        if self.phase is not Phase.RUNNING:
            return []
        at = next((i for i, shard in enumerate(self._shards) if shard.peer == peer), None)
        if at is None or at in self._features:
            return []
        return self._retry({peer}, view, now, why=f"board {peer} is gone")

    def logits(self, event: LogitsReady, now: float) -> list[Effect]:
        """The answer is there."""
        if self.phase is not Phase.ANSWERING:
            return []
        if now >= self.submission.deadline_at:
            return self.timer(now)  # timers are looked at coarsely; a late answer is late all the same
        self.phase = Phase.DONE
        wanted = self.submission
        reports = tuple(
            BoardReport(shard=shard, timing=self._features[i].timing, traffic=self._features[i].traffic)
            for i, shard in enumerate(self._shards)
        )
        if self._single:
            tokens = TokenRange(start=0, stop=self._facts.tokens)
            shard = Shard(peer=self._self_id, tokens=tokens)
            reports = (BoardReport(shard=shard, timing=event.timing, traffic=Traffic()),)
        answer = Answer(
            logits=event.body,
            single=self._single,
            codec=wanted.codec,
            exchange=wanted.exchange,
            attempts=max(1, self._attempt),
            rounds=self._facts.blocks if len(reports) > 1 else 0,
            boards=reports,
            lost=tuple(self._lost),
            input_bytes=self._input_bytes,
            gather_s=0.0 if self._single else now - self._gather_from,
            latency_s=now - self._started_at,
        )
        return [Deliver(request=wanted.request, result=answer)]

    def answer_failed(self, event: AnswerFailed) -> list[Effect]:
        return self._end(RemoteStageError(f"this board could not compute: {event.detail}"))

    def cancel(self) -> list[Effect]:
        if self.phase is Phase.DONE:
            return []
        return self._cancel_attempt() + self._end(Cancelled("the asker went away"))

    def timer(self, now: float) -> list[Effect]:
        if self.phase is Phase.DONE or now < self.submission.deadline_at:
            return []
        waited = now - self._started_at
        error = DeadlineExceeded(f"no answer within {waited:.3g} s; allow more with --deadline, or use fewer boards")
        return self._cancel_attempt() + self._end(error)

    def check(self) -> None:
        """Invariants, for tests: shards cover all tokens once, and no feature comes from outside of them."""
        if self._shards:
            assert self._shards[0].tokens.start == 0
            assert self._shards[-1].tokens.stop == self._facts.tokens
        assert all(origin < len(self._shards) for origin in self._features)

    def _alone(self) -> list[Effect]:
        self.phase = Phase.ANSWERING
        self._single = True
        self._shards = ()
        wanted = self.submission
        return [RunWhole(request=wanted.request, model=wanted.model, batch=wanted.batch, rows=wanted.rows)]

    def _assign(
        self, view: View, boards: tuple[PeerId, ...], shares: tuple[float, ...] | None, now: float
    ) -> list[Effect]:
        wanted, facts = self.submission, self._facts
        self._attempt += 1
        self._epoch = ring.epoch([view.members[peer] for peer in boards])
        self._features = {}
        ranges = partition(facts.tokens, shares or [1.0] * len(boards))
        self._shards = tuple(Shard(peer=p, tokens=r) for p, r in zip(boards, ranges, strict=True))
        effects: list[Effect] = []
        for shard in self._shards:
            kind, body = self._input(shard)
            if shard.peer != self._self_id:
                self._input_bytes += len(body)
            assign = Assign(
                request=wanted.request,
                attempt=self._attempt,
                epoch=self._epoch,
                model=wanted.model,
                codec=wanted.codec,
                exchange=wanted.exchange,
                batch=wanted.batch,
                coordinator=boards.index(self._self_id),
                shards=self._shards,
                deadline_ms=max(0, int((wanted.deadline_at - now) * 1000)),
                input_kind=kind,
                body=body,
            )
            effects.append(Send(to=shard.peer, message=assign))
        # The others start first: their parts have a way to go.
        effects.sort(key=lambda effect: isinstance(effect, Send) and effect.to == self._self_id)
        return effects

    def _input(self, shard: Shard) -> tuple[InputKind, bytes]:
        """The cheapest form of a board's part of the input: its patch rows, or the compressed file when smaller."""
        wanted, facts = self.submission, self._facts
        row, image = facts.row_bytes, facts.row_bytes * facts.tokens
        tokens = shard.tokens
        size = tokens.count * row * wanted.batch
        if wanted.file is not None and len(wanted.file) < size and shard.peer != self._self_id:
            return InputKind.FILE, wanted.file
        cuts = ((b * image + tokens.start * row, b * image + tokens.stop * row) for b in range(wanted.batch))
        return InputKind.ROWS, b"".join(wanted.rows[start:stop] for start, stop in cuts)

    def _retry(self, blamed: set[PeerId], view: View, now: float, *, why: str) -> list[Effect]:
        effects = self._cancel_attempt()
        self._excluded |= blamed
        self._lost += [peer for peer in sorted(blamed) if peer not in self._lost]
        if self._attempt >= MAX_ATTEMPTS:
            error = NotEnoughBoards(f"{self._attempt} attempts failed, the last one because of {why}; try again")
            return effects + self._end(error)
        able = {member.peer for member in view.alive(self.submission.model)}
        rest = tuple(s.peer for s in self._shards if s.peer in able and s.peer not in self._excluded)
        if len(rest) <= 1:
            self._attempt += 1
            return effects + self._alone()
        return effects + self._assign(view, rest, None, now)

    def _cancel_attempt(self) -> list[Effect]:
        wanted = self.submission
        message = Cancel(request=wanted.request, attempt=self._attempt, epoch=self._epoch)
        return [Send(to=shard.peer, message=message) for shard in self._shards if self._attempt]

    def _end(self, error: RequestError) -> list[Effect]:
        self.phase = Phase.DONE
        return [Deliver(request=self.submission.request, result=error)]
