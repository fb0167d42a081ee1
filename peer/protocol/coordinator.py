"""The asked board's side of one request: plan an attempt, hand out shards, gather class tokens, answer exactly once.

phase      event                                  -> phase     effects
(new)      begin, this board alone                   ANSWERING RunWhole
(new)      begin, another board alone                RUNNING   Send Errand to it
(new)      begin, several boards                     RUNNING   Send Assign to every board of the attempt
RUNNING    Feature of an errand                      DONE      Deliver(Answer)
RUNNING    an errand's board is lost, or too slow    as begin  Send Cancel, and what a new begin without it gives
RUNNING    Feature (last one missing)                ANSWERING RunHead
RUNNING    Failed, or a needed board lost            RUNNING   Send Cancel to the old attempt, Assign to the survivors
RUNNING    class tokens of others stay out           RUNNING   the same
RUNNING    the same, this board alone is left        ANSWERING Send Cancel, RunWhole
RUNNING    the same, the last attempt has failed     ANSWERING Send Cancel, RunWhole
RUNNING    the same, time to do it alone, not anew   ANSWERING Send Cancel, RunWhole
RUNNING    just enough time left to do it alone      ANSWERING Send Cancel, RunWhole
RUNNING    the same, no time for either              RUNNING   - (done without them), or RunHead
RUNNING    the same, too late                        DONE      Send Cancel, Deliver(error)
RUNNING    Failed, this board itself cannot go on    DONE      Send Cancel, Deliver(error)
ANSWERING  LogitsReady                               DONE      Deliver(Answer)
ANSWERING  AnswerFailed                              DONE      Deliver(error)
*          cancelled, deadline passed                DONE      Send Cancel, Deliver(error)
*          Feature or Failed of an older attempt     same      dropped
others     the same events                           same      dropped
"""

import math
import struct
from dataclasses import replace
from enum import Enum

from peer.errors import Cancelled, DeadlineExceeded, Refused, RemoteStageError, RequestError
from peer.protocol import ring
from peer.protocol.assignment import Pack, assignments, errand, too_large
from peer.protocol.course import Course, course, planned, wish_of
from peer.protocol.effects import Answer, BoardReport, Deliver, Effect, RunHead, RunWhole, Send
from peer.protocol.events import AnswerFailed, LogitsReady, Submission
from peer.protocol.messages import Cancel, Failed, Feature
from peer.protocol.outlook import Bustle, Outlook, Situation, case
from peer.protocol.partition import partition
from peer.protocol.patience import FIRST_ROUND_S, Patience
from peer.protocol.planner import Way
from peer.protocol.shares import weights
from peer.protocol.time_left import TimeLeft
from peer.protocol.types import (
    Epoch,
    Exchange,
    FailureReason,
    ModelFacts,
    PeerId,
    Shard,
    Timing,
    TokenRange,
    Traffic,
    View,
)

MAX_ATTEMPTS = 3  # with others; what they do not bring to an end the asked board does alone
_ERRAND_LATE = 4.0  # times what an errand was to take: its board is stuck, or has far more to do than we know
MAX_STAGE_FAILURES = 2  # an input that breaks two boards' compute is refused, not carried to a third


class Phase(Enum):
    RUNNING = "running"
    ANSWERING = "answering"
    DONE = "done"


class Coordinator:
    """State of one request on the board that was asked."""

    def __init__(
        self,
        *,
        submission: Submission,
        facts: ModelFacts,
        patience: Patience,
        outlook: Outlook,
        now: float,
        pack: Pack | None = None,
    ) -> None:
        self.submission = submission
        self.phase = Phase.RUNNING
        self._facts = facts
        self._started_at = now
        self._queue_s = 0.0  # behind other requests
        self._patience = patience
        self._time = TimeLeft(submission, facts, patience)
        self._outlook = outlook
        self._pack = pack
        self._course: Course | None = None
        self._undisturbed = True  # by other requests: what it takes is worth remembering
        self._predicted_s: float | None = None
        self._attempt_at = now
        self._without: set[int] = set()  # shards that some board did without: nobody waits for them any more
        self._gather_from = now
        self._gather_by = math.inf  # when the class tokens of the others are late
        self._attempt = 0
        self._epoch = Epoch(0)
        self._shards: tuple[Shard, ...] = ()
        self._features: dict[int, Feature] = {}
        self._excluded: set[PeerId] = set()
        self._lost: list[PeerId] = []
        self._stage_failures = 0
        self._input_bytes = 0
        self._whole_on: PeerId | None = None  # the board that runs the undivided model
        self._self_id = PeerId("")

    @property
    def whole_on(self) -> PeerId | None:
        """The board that has the whole request, None where it is shared."""
        return self._whole_on

    @property
    def entrusted(self) -> bool:
        """Whether another board has the whole request: this one has nothing to do for it."""
        return self._whole_on is not None and self._whole_on != self._self_id

    def disturbed(self) -> None:
        """Another request is under way beside this one."""
        self._undisturbed = False

    def deadline(self) -> float:
        """Local monotonic time at which this request wants a `timer`."""
        if self.phase is Phase.RUNNING:
            return min(self.submission.deadline_at, self._gather_by, self._time.rescue_at)
        return self.submission.deadline_at

    def begin(self, view: View, bustle: Bustle, now: float) -> list[Effect]:
        """Plan the first attempt, or end at once with a typed error."""
        self._self_id = view.self_id
        self._queue_s = now - self._started_at
        self._time.begin(view.members[view.self_id].speed, now)
        if self._time.over(now):
            return self._out_of_time(now)  # it waited its turn, or was late when it came
        self._undisturbed = bustle.requests == 1
        chosen = course(self.submission, self._situation(view, bustle, now), self._outlook)
        if isinstance(chosen, RequestError):
            return self._end(chosen)
        if chosen.predicted_s is not None:
            self._predicted_s = now - self._started_at + chosen.predicted_s
        return self._follow(chosen, view, now)

    def _situation(self, view: View, bustle: Bustle, now: float) -> Situation:
        return Situation(view=view, facts=self._facts, wish=wish_of(self.submission), bustle=bustle, now=now)

    def _follow(self, chosen: Course, view: View, now: float) -> list[Effect]:
        self._course = chosen
        if chosen.way is Way.SEQUENCE:  # later attempts keep the codec
            self.submission = replace(self.submission, codec=chosen.codec, others=())
            self._time.codec = chosen.codec
        match chosen.way:
            case Way.SINGLE:
                return self._alone(now)
            case Way.ELSEWHERE:
                return self._entrust(chosen, view, now)
            case _:
                return self._assign(view, chosen.boards, tuple(map(float, chosen.counts)), now)

    def is_from(self, message: Feature | Failed, sender: PeerId) -> bool:
        """Whether `sender` is the board that the message speaks for; of an older attempt nobody needs to know."""
        if message.attempt != self._attempt or message.origin >= len(self._shards):
            return True
        return self._shards[message.origin].peer == sender

    def feature(self, message: Feature, view: View, now: float) -> list[Effect]:
        """One board is through; the last one completes the gather."""
        if self.phase is not Phase.RUNNING or message.attempt != self._attempt or message.epoch != self._epoch:
            return []
        if message.origin >= len(self._shards) or message.origin in self._features:
            return []
        sender = self._shards[message.origin].peer
        due_bytes = 4 * self.submission.batch * (self._facts.labels if self.entrusted else self._facts.width)
        if len(message.body) != due_bytes:
            what = "an answer" if self.entrusted else "a class token"
            return self._leave_out(
                {sender}, sender, f"{what} of {len(message.body)} bytes where {due_bytes} are due", view, now
            )
        if self.entrusted:
            return self._errand_done(message, view, now)
        self._features[message.origin] = message
        self._without |= {i for i in message.lost if i < len(self._shards)}
        if sender == self._self_id:
            # Every board had the same rounds to finish: who is silent for a whole round from here on is not coming.
            self._gather_from, self._gather_by = now, now + self._time.round_s(self._attempt, now)
        return self._gathered()

    def _errand_done(self, message: Feature, view: View, now: float) -> list[Effect]:
        """Another board's answer, checked as far as an answer can be."""
        sender = self._shards[0].peer
        if not all(map(math.isfinite, struct.unpack(f"<{len(message.body) // 4}f", message.body))):
            return self._leave_out({sender}, sender, "an answer that is not finite", view, now)
        self._features[0] = message
        self.phase = Phase.ANSWERING
        return self.logits(LogitsReady(request=self.submission.request, timing=message.timing, body=message.body), now)

    def _gathered(self) -> list[Effect]:
        """The head's turn, once the class tokens of all boards that are waited for are here."""
        kept = [i for i, shard in enumerate(self._shards) if i not in self._without or shard.peer == self._self_id]
        if any(i not in self._features for i in kept):
            return []
        self.phase = Phase.ANSWERING
        self._features = {i: self._features[i] for i in kept}
        bodies = tuple(self._features[i].body for i in kept)
        wanted = self.submission
        return [RunHead(request=wanted.request, model=wanted.model, batch=wanted.batch, features=bodies)]

    def failed(self, message: Failed, view: View, now: float) -> list[Effect]:
        """A board reports that an attempt cannot go on: leave out who is to blame and try the others."""
        if self.phase is not Phase.RUNNING or message.attempt != self._attempt or message.epoch != self._epoch:
            return []
        if message.origin >= len(self._shards):
            return []
        reporter = self._shards[message.origin].peer
        if message.reason is FailureReason.STAGE_FAILED:
            self._stage_failures += 1
            if self._stage_failures >= MAX_STAGE_FAILURES or reporter == self._self_id:
                error = RemoteStageError(f"board {reporter} could not compute: {message.detail}")
                return self._cancel_attempt() + self._end(error)
        blamed = self._to_blame(message)
        if message.reason is FailureReason.ROUND_TIMEOUT:
            self._patience.stayed_out(blamed - {self._self_id}, now)
        return self._leave_out(blamed, reporter, message.detail, view, now)

    def peer_lost(self, peer: PeerId, view: View, now: float) -> list[Effect]:
        """The link to a board of the attempt broke before its class token was here."""
        if self.phase is not Phase.RUNNING:
            return []
        at = next((i for i, shard in enumerate(self._shards) if shard.peer == peer), None)
        if at is None or at in self._features:
            return []
        return self._without_or_again({at}, view, now)

    def _without_or_again(self, late: set[int], view: View, now: float) -> list[Effect]:
        """Boards of the attempt that stay out: begin anew without them, or have it done without their tokens."""
        left = [i for i, s in enumerate(self._shards) if i not in late | self._without and s.peer != self._self_id]
        if not left or not self._time.to_degrade(now):
            return self._retry({self._shards[i].peer for i in late}, view, now)
        self._without |= late
        return self._gathered()

    def logits(self, event: LogitsReady, now: float) -> list[Effect]:
        """The answer is there."""
        if self.phase is not Phase.ANSWERING:
            return []
        if self._time.over(now):
            return self._out_of_time(now)  # timers are looked at coarsely; a late answer is late all the same
        self.phase = Phase.DONE
        wanted = self.submission
        reports = tuple(
            BoardReport(shard=self._shards[i], timing=feature.timing, traffic=feature.traffic)
            for i, feature in sorted(self._features.items())
        )
        if self._whole_on == self._self_id:
            tokens = TokenRange(start=0, stop=self._facts.tokens)
            shard = Shard(peer=self._self_id, tokens=tokens)
            reports = (BoardReport(shard=shard, timing=event.timing, traffic=Traffic()),)
        self._lost += [p for i in sorted(self._without) if (p := self._shards[i].peer) not in self._lost]
        self._patience.stayed_out((self._shards[i].peer for i in self._without), now)
        single, exchanges = self._whole_on is not None, self._facts.codecs[wanted.codec].rounds
        if not single and not self._without:
            block_s = max(_mean_block_s(report.timing, self._facts.blocks) for report in reports)
            self._patience.learn(wanted.model, block_s=block_s, run_s=now - self._attempt_at)
        self._learn(reports, now)
        answer = Answer(
            logits=event.body,
            single=single,
            codec=wanted.codec,
            exchange=wanted.exchange,
            attempts=max(1, self._attempt),
            rounds=exchanges if len(self._shards) > 1 and not single else 0,
            boards=reports,
            lost=tuple(self._lost),
            degraded=bool(self._without),
            slow=self._course.slow if self._course else (),
            input_bytes=self._input_bytes,
            gather_s=0.0 if single else now - self._gather_from,
            latency_s=now - self._started_at,
            queue_s=self._queue_s,
            predicted_s=self._predicted_s,
            reason=self._course.reason if self._course else "",
        )
        return [Deliver(request=wanted.request, result=answer)]

    def _learn(self, reports: tuple[BoardReport, ...], now: float) -> None:
        """How right the forecast was: of all that it took, or of its compute where other requests were in the way."""
        chosen = self._course
        first = self._attempt <= 1 and not self._without and not self._lost
        if chosen is None or chosen.option is None or not first:
            return
        forecast, busy_s = chosen.option.forecast, max(_busy_s(report.timing) for report in reports)
        if chosen.way is Way.ELSEWHERE or (chosen.way is Way.SINGLE and not self._undisturbed):
            predicted_s, measured_s = forecast.busy_s, busy_s
        elif self._undisturbed:
            predicted_s, measured_s = forecast.latency_s + busy_s - forecast.busy_s, now - self._attempt_at
        else:
            return
        if self._undisturbed and chosen.way is not Way.SINGLE:
            self._outlook.travelled(chosen.option, now - self._attempt_at - busy_s, self._self_id)
        about = case(chosen.option, self._facts.model)
        self._outlook.experience.learn(about, predicted_s=predicted_s, measured_s=measured_s, now=now)

    def answer_failed(self, event: AnswerFailed) -> list[Effect]:
        if self.phase is not Phase.ANSWERING:
            return []
        return self._end(RemoteStageError(f"this board could not compute: {event.detail}"))

    def cancel(self) -> list[Effect]:
        if self.phase is Phase.DONE:
            return []
        return self._cancel_attempt() + self._end(Cancelled("the asker went away"))

    def timer(self, view: View, now: float) -> list[Effect]:
        if self.phase is Phase.DONE:
            return []
        if self._time.over(now):
            return self._out_of_time(now)
        if self.phase is Phase.RUNNING and now >= self._time.rescue_at:
            effects = self._cancel_attempt()
            self._attempt += 1
            return effects + self._alone(now)
        if self.phase is Phase.RUNNING and now >= self._gather_by:
            late = {i for i in range(len(self._shards)) if i not in self._features and i not in self._without}
            self._patience.stayed_out((self._shards[i].peer for i in late), now)
            return self._without_or_again(late, view, now)
        return []

    def check(self) -> None:
        """Invariants, for tests: shards cover all tokens once, and no feature comes from outside of them."""
        if self._shards:
            assert self._shards[0].tokens.start == 0
            assert self._shards[-1].tokens.stop == self._facts.tokens
        assert all(origin < len(self._shards) for origin in self._features)
        assert all(origin < len(self._shards) for origin in self._without)

    def _alone(self, now: float) -> list[Effect]:
        self.phase = Phase.ANSWERING
        self._whole_on = self._self_id
        self._attempt_at = now
        self._shards, self._features, self._without = (), {}, set()
        wanted = self.submission
        return [RunWhole(request=wanted.request, model=wanted.model, batch=wanted.batch, rows=wanted.rows)]

    def _entrust(self, chosen: Course, view: View, now: float) -> list[Effect]:
        """Hand the whole request to another board."""
        helper = chosen.boards[0]
        tokens = TokenRange(start=0, stop=self._facts.tokens)
        self._attempt += 1
        self._epoch = ring.epoch([view.members[helper]])
        self._shards = (Shard(peer=helper, tokens=tokens),)
        obstacle = too_large(self.submission, self._facts, self._shards, entrusted=True)
        if obstacle is not None:
            return self._alone(now)
        self._whole_on = helper
        self._features, self._without, self._attempt_at = {}, set(), now
        self._gather_by = now + FIRST_ROUND_S + _ERRAND_LATE * (chosen.predicted_s or 0.0)
        message = errand(
            self.submission,
            self._facts,
            asker=self._self_id,
            attempt=self._attempt,
            epoch=self._epoch,
            now=now,
            narrow=self._outlook.narrow(view, helper),
            pack=self._pack,
        )
        self._input_bytes += len(message.body)
        return [Send(to=helper, message=message)]

    def _assign(
        self, view: View, boards: tuple[PeerId, ...], shares: tuple[float, ...] | None, now: float
    ) -> list[Effect]:
        wanted, facts = self.submission, self._facts
        self._attempt += 1
        self._whole_on = None
        self._epoch = ring.epoch([view.members[peer] for peer in boards])
        self._features, self._gather_by, self._without = {}, math.inf, set()
        self._attempt_at = now
        try:
            ranges = partition(facts.tokens, shares or weights([view.members[peer].speed for peer in boards]))
        except ValueError as problem:
            return self._end(Refused(f"{problem}; ask for other shares"))
        self._shards = tuple(Shard(peer=p, tokens=r) for p, r in zip(boards, ranges, strict=True))
        obstacle = too_large(wanted, facts, self._shards)
        if obstacle is not None:
            return self._end(Refused(obstacle))
        messages = assignments(
            wanted,
            facts,
            self._shards,
            self_id=self._self_id,
            attempt=self._attempt,
            epoch=self._epoch,
            round_s=self._time.round_s(self._attempt, now),
            degrade_s=self._time.degrade_s(),
            degrade_from=self._time.degrade_from,
            now=now,
            pack=self._pack,
            narrow=frozenset(peer for peer in boards if self._outlook.narrow(view, peer)),
        )
        self._input_bytes += sum(len(m.body) for p, m in zip(boards, messages, strict=True) if p != self._self_id)
        # The others start first: their parts have a way to go.
        sends: list[Effect] = [
            Send(to=p, message=m) for p, m in zip(boards, messages, strict=True) if p != self._self_id
        ]
        return [*sends, Send(to=self._self_id, message=messages[boards.index(self._self_id)])]

    def _to_blame(self, message: Failed) -> set[PeerId]:
        """The boards named as missing; the reporter where it names none, or the board that coordinates."""
        count = len(self._shards)
        reporter = self._shards[message.origin].peer
        missing = [i for i in message.missing if i < count and i != message.origin]
        if message.reason is FailureReason.ROUND_TIMEOUT and self.submission.exchange is Exchange.RING:
            # Codes pass from board to board: of all that stay out, those of the nearest board upstream tell where.
            missing = sorted(missing, key=lambda i: (message.origin - i) % count)[:1]
        blamed = {self._shards[i].peer for i in missing}
        # Where somebody does not hear the asked board, who says so is left out instead of the one that coordinates.
        return {reporter} if not blamed or self._self_id in blamed else blamed

    def _leave_out(self, blamed: set[PeerId], reporter: PeerId, detail: str, view: View, now: float) -> list[Effect]:
        if self._self_id in blamed:
            error = Refused(f"this board cannot take part: {detail}; try again in a moment, or ask another board")
            return self._cancel_attempt() + self._end(error)
        return self._retry(blamed, view, now)

    def _retry(self, blamed: set[PeerId], view: View, now: float) -> list[Effect]:
        effects = self._cancel_attempt()
        self._excluded |= blamed
        self._lost += [peer for peer in sorted(blamed) if peer not in self._lost]
        if self._time.over(now):
            return self._out_of_time(now)
        able = {member.peer for member in view.alive(self.submission.model)}
        if self.entrusted and self._attempt < MAX_ATTEMPTS:
            # Some boards may be lost at once: whoever is left and has least to do takes it.
            bustle = Bustle(requests=2, absent=frozenset(self._excluded))
            again = planned(self._situation(view, bustle, now), self._outlook)
            self._attempt += again.way is Way.SINGLE
            return effects + self._follow(replace(again, option=None), view, now)
        rest = tuple(s.peer for s in self._shards if s.peer in able and s.peer not in self._excluded)
        if len(rest) <= 1 or self._attempt >= MAX_ATTEMPTS or self._time.only_alone(now):
            self._attempt += 1
            return effects + self._alone(now)
        return effects + self._assign(view, rest, None, now)

    def _cancel_attempt(self) -> list[Effect]:
        wanted = self.submission
        message = Cancel(request=wanted.request, attempt=self._attempt, epoch=self._epoch)
        return [Send(to=shard.peer, message=message) for shard in self._shards if self._attempt]

    def _out_of_time(self, now: float) -> list[Effect]:
        waited = now - self._started_at
        error = DeadlineExceeded(f"no answer within {waited:.3g} s; allow more with --deadline, or use fewer boards")
        return self._cancel_attempt() + self._end(error)

    def _end(self, error: RequestError) -> list[Effect]:
        self.phase = Phase.DONE
        return [Deliver(request=self.submission.request, result=error)]


def _busy_s(timing: Timing) -> float:
    """What one board computed."""
    return (timing.prepare_us + timing.compute_us + timing.encode_us + timing.decode_us) / 1e6


def _mean_block_s(timing: Timing, blocks: int) -> float:
    """One board's mean block, waiting included."""
    return (timing.compute_us + timing.encode_us + timing.decode_us + timing.wait_us) / 1e6 / blocks
