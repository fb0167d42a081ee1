"""All requests of one board, as coordinator and as participant: `handle(event, now) -> effects`.

Composes `Coordinator` and `Participant`; owns what lies between them: which attempt a message belongs to, codes that
came before their assignment, attempts that are over, and the limits that keep memory bounded.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from peer.errors import LocalProtocolError, NoSuchModel
from peer.protocol.accounts import Load
from peer.protocol.assignment import Pack
from peer.protocol.coordinator import Coordinator
from peer.protocol.coordinator import Phase as CoordinatorPhase
from peer.protocol.early import EarlyCodes
from peer.protocol.effects import Deliver, Effect, RunErrand, RunWhole, Send
from peer.protocol.errands import Errands, refusal
from peer.protocol.events import (
    AnswerFailed,
    CancelRequested,
    CodesReady,
    ComputeFailed,
    ErrandDone,
    Event,
    LogitsReady,
    MessageReceived,
    ModelsChanged,
    PeerLost,
    QueryDone,
    ShardDone,
    Submission,
    Submitted,
    TimerDue,
    ViewChanged,
)
from peer.protocol.experience import Experience
from peer.protocol.messages import (
    Assign,
    Cancel,
    Codes,
    DataMessage,
    Echo,
    Errand,
    Failed,
    Feature,
    RequestMessage,
    Sound,
)
from peer.protocol.outlook import Bustle, Outlook
from peer.protocol.participant import Participant
from peer.protocol.participant import Phase as ParticipantPhase
from peer.protocol.patience import Patience
from peer.protocol.soundings import Soundings
from peer.protocol.types import AttemptKey, FailureReason, ModelFacts, ModelId, PeerId, RequestId, Status, View, boot
from peer.protocol.waiting import WaitingRoom, turned_away

Move = Callable[[Participant], list[Effect]]
Decision = Callable[[Coordinator], list[Effect]]
# The states in which the daemon keeps a link; a board that said goodbye finishes what it has begun.
_USABLE = (Status.ALIVE, Status.SUSPECT, Status.LEFT)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Bounds of one board; all times in seconds."""

    coordinated: int = 64  # requests asked of this board, those that wait included; more are refused as busy
    active: int = 4  # of these under way here at once: more would only take turns, and rounds would seem late
    entrusted: int = 3  # and so many more for each other board, which is given whole requests
    waiting_bytes: int = 64 * 1024 * 1024  # what the inputs of those that wait may take
    participated: int = 64  # shards computed at once for all coordinators
    early_codes: int = 256  # code messages kept for assignments still on their way
    early_bytes: int = 32 * 1024 * 1024  # what their bodies may take together
    early_s: float = 2.0
    remembered: int = 1024  # attempts that are over, so that their late messages are dropped unseen
    sound_every_s: float = math.inf  # seconds between two looks at the link to one board; infinite: never


class Requests:
    """The request machine of one board. Not thread-safe: one driver owns it."""

    def __init__(
        self, *, view: View, models: Mapping[ModelId, ModelFacts], limits: RequestLimits, pack: Pack | None = None
    ) -> None:
        """`pack`: how patch rows are made smaller for boards behind narrow links; None: they are not."""
        self.view = view
        self.counters: Counter[str] = Counter()
        self._models = dict(models)
        self._limits = limits
        self._patience = Patience()
        self.experience = Experience()
        self.soundings = Soundings(limits.sound_every_s)
        self._outlook = Outlook(self.experience, lambda: self.soundings.links)
        self._coordinate = partial(Coordinator, patience=self._patience, outlook=self._outlook, pack=pack)
        self._errands = Errands()
        self._coordinators: dict[RequestId, Coordinator] = {}
        self._waiting = WaitingRoom(limit_bytes=limits.waiting_bytes)
        self._participants: dict[AttemptKey, Participant] = {}
        self._early = EarlyCodes(most=limits.early_codes, most_bytes=limits.early_bytes, patience_s=limits.early_s)
        self._over: OrderedDict[AttemptKey, None] = OrderedDict()
        self._cancelled: OrderedDict[tuple[AttemptKey, PeerId], None] = OrderedDict()  # and by whom

    @property
    def idle(self) -> bool:
        return not self._coordinators and not self._participants and not self._waiting and not self._errands

    def wants(self, effect: RunWhole | RunErrand) -> bool:
        """Whether somebody still waits for what was put off."""
        if isinstance(effect, RunErrand):
            return effect.key in self._errands
        return effect.request in self._coordinators

    @property
    def load(self) -> Load:
        """What is under way; may be read by other threads."""
        return Load(running=len(self._coordinators), waiting=len(self._waiting), shards=len(self._participants))

    def deadline(self) -> float | None:
        """Local monotonic time at which a TimerDue is wanted, or None."""
        times = [c.deadline() for c in self._coordinators.values()]
        times += [p.deadline() for p in self._participants.values()]
        others = [machine.deadline() for machine in (self._waiting, self._errands, self._early)]
        others += [self.soundings.deadline()] if self.idle else []
        times += [at for at in others if at is not None]
        return min(times, default=None)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """The one mutating entry. Effects are to be performed in order."""
        match event:
            case MessageReceived(message=message, sender=sender):
                effects = self._message(message, sender, now)
                if type(message) is Codes:
                    return effects  # in the middle of a round no request ends here, so none that waits begins
            case CodesReady() | QueryDone():
                return self._computed(event, now)
            case ShardDone() | ErrandDone() | ComputeFailed():
                effects = self._computed(event, now)
            case Submitted(submission=submission):
                effects = self._submit(submission, now)
            case LogitsReady(request=request):
                effects = self._coordinator(request, lambda c: c.logits(event, now))
            case AnswerFailed(request=request):
                effects = self._coordinator(request, lambda c: c.answer_failed(event))
            case CancelRequested(request=request):
                effects = self._cancel(request)
            case PeerLost(peer=peer):
                effects = self._lost(peer, now)
            case ViewChanged(view=view):
                gone = self._gone(view)
                self.view = view
                self.soundings.see(view, now)
                effects = [effect for peer in gone for effect in self._lost(peer, now)]
            case ModelsChanged(models=models):
                effects = self._hold(models)
            case TimerDue():
                effects = self._timer(now)
            case _ as never:
                assert_never(never)
        effects += self._begin_waiting(now)
        self.soundings.doubt(self._outlook.take_doubted(), now)
        if not self.idle:
            self.soundings.stop(now)
        return effects

    def check(self) -> None:
        """Invariants, for tests."""
        assert self._local() <= self._limits.active + len(self._coordinators)  # an errand that came back adds to it
        assert len(self._coordinators) + len(self._waiting) <= self._limits.coordinated
        assert not self._waiting or not self._has_room()
        assert not any(request in self._waiting for request in self._coordinators)
        assert len(self._participants) + len(self._errands) <= self._limits.participated
        self.soundings.check()
        self._early.check()
        assert max(len(self._over), len(self._cancelled)) <= self._limits.remembered
        assert not self._early.attempts & (self._participants.keys() | self._over.keys())
        assert not self._participants.keys() & self._over.keys()
        assert not any(key in self._errands for key in (*self._participants, *self._over))
        for coordinator in self._coordinators.values():
            coordinator.check()
        for participant in self._participants.values():
            participant.check()

    def _hold(self, models: Mapping[ModelId, ModelFacts]) -> list[Effect]:
        self._models = dict(models)
        self._patience.keep(frozenset(models))
        self._outlook.keep(frozenset(models))
        return []

    def _timer(self, now: float) -> list[Effect]:
        effects = self._each_coordinator(lambda c: c.timer(self.view, now))
        effects += self._each_participant(lambda p: p.timer(now))
        effects += self._waiting.expire(now)
        effects += [effect for key in self._errands.expire(now) for effect in self._errand_over(key)]
        self.counters["early_codes_expired"] += self._early.expire(now)
        return effects + (self.soundings.timer(self.view.self_id, now) if self.idle else [])

    def _computed(
        self, event: CodesReady | QueryDone | ShardDone | ErrandDone | ComputeFailed, now: float
    ) -> list[Effect]:
        """A step of a shard or of an errand has ended."""
        key = event.key
        match event:
            case CodesReady():
                return self._participant(key, lambda p: p.codes_ready(event, now))
            case QueryDone():
                return self._participant(key, lambda p: p.query_done(now))
            case ShardDone():
                return self._participant(key, lambda p: p.shard_done(event))
            case ErrandDone():
                self._close(key)
                return self._errands.done(event)
            case ComputeFailed() if key in self._errands:
                self._close(key)
                return self._errands.failed(event)
            case ComputeFailed():
                return self._participant(key, lambda p: p.compute_failed(event))
            case _ as never:
                assert_never(never)

    def _submit(self, submission: Submission, now: float) -> list[Effect]:
        request = submission.request
        if request in self._coordinators or request in self._waiting:
            raise LocalProtocolError(f"request {request:016x} was submitted twice")
        if submission.model not in self._models:
            return [Deliver(request=request, result=_unknown(submission.model))]
        held = len(self._coordinators) + len(self._waiting)
        if held >= self._limits.coordinated or not self._waiting.has_room(submission):
            turns_s = held / self._limits.active * self._patience.run_s(submission.model)
            return [turned_away(request, held=held, turns_s=turns_s)]
        self._waiting.enter(submission, now)
        return []

    def _cancel(self, request: RequestId) -> list[Effect]:
        if request in self._waiting:
            return [self._waiting.cancel(request)]
        return self._coordinator(request, lambda c: c.cancel())

    def _local(self) -> int:
        """Requests asked of this board that it has something to do for."""
        return sum(not coordinator.entrusted for coordinator in self._coordinators.values())

    def _has_room(self) -> bool:
        """Whether one more may begin: a few here, and a few for each other board."""
        others = len(self.view.alive()) - 1
        most = self._limits.active + self._limits.entrusted * max(0, others)
        return self._local() < self._limits.active and len(self._coordinators) < most

    def _begin_waiting(self, now: float) -> list[Effect]:
        """Whoever has waited longest, as far as there is room."""
        effects: list[Effect] = []
        while self._waiting and self._has_room():
            submitted_at, submission = self._waiting.call()
            request = submission.request
            facts = self._models.get(submission.model)
            if facts is None:
                effects.append(Deliver(request=request, result=_unknown(submission.model)))
                continue
            for other in self._coordinators.values():
                other.disturbed()
            begin = partial(Coordinator.begin, view=self.view, bustle=self._bustle(now), now=now)
            self._coordinators[request] = self._coordinate(submission=submission, facts=facts, now=submitted_at)
            effects += self._coordinator(request, begin)
        return effects

    def _bustle(self, now: float) -> Bustle:
        under_way = Counter(c.whole_on for c in self._coordinators.values() if c.whole_on is not None)
        under_way[self.view.self_id] += len(self._errands)
        # What others ask of this board takes its time as well, and theirs: a request shared with them would share that.
        others = sum(p.coordinator != self.view.self_id for p in self._participants.values()) + len(self._errands)
        return Bustle(
            requests=len(self._coordinators) + len(self._waiting) + 1 + others,
            under_way=under_way,
            absent=self._patience.absent(now),
        )

    def _message(self, message: DataMessage, sender: PeerId | None, now: float) -> list[Effect]:
        """Another board's message. What only one board may say is dropped from everybody else."""
        if isinstance(message, Sound | Echo):
            return self._sounded(message, sender, now)
        return self._request_message(message, sender, now)

    def _sounded(self, message: Sound | Echo, sender: PeerId | None, now: float) -> list[Effect]:
        if sender is not None and sender != message.sender:
            return self._forged()
        if isinstance(message, Echo):
            return [*self.soundings.echo(message, self.view.self_id, now)]
        if message.sender not in self.view.members:
            return []
        echo = Echo(sender=self.view.self_id, sequence=message.sequence, busy=not self.idle)
        return [Send(to=message.sender, message=echo)]

    def _request_message(self, message: RequestMessage, sender: PeerId | None, now: float) -> list[Effect]:
        key = AttemptKey(message.request, message.attempt)
        match message:
            case Codes():
                participant = self._participants.get(key)
                if participant is None:
                    self._keep_early(key, message, sender, now)
                    return []
                if sender is not None and sender != participant.brings(message.origin):
                    return self._forged()
                return self._settle(key, participant, participant.codes(message, now))
            case Assign():
                if sender is not None and sender != message.shards[message.coordinator].peer:
                    return self._forged()
                return self._assigned(key, message, now)
            case Errand():
                return self._entrusted(key, message, sender, now)
            case Feature() | Failed():
                coordinator = self._coordinators.get(message.request)
                if coordinator is not None and sender is not None and not coordinator.is_from(message, sender):
                    return self._forged()
                if isinstance(message, Feature):
                    return self._coordinator(message.request, lambda c: c.feature(message, self.view, now))
                return self._coordinator(message.request, lambda c: c.failed(message, self.view, now))
            case Cancel():
                return self._called_off(key, sender)
            case _ as never:
                assert_never(never)

    def _called_off(self, key: AttemptKey, sender: PeerId | None) -> list[Effect]:
        participant = self._participants.get(key)
        owner = participant.coordinator if participant else self._errands.asker(key)
        if owner is not None and sender is not None and sender != owner:
            return self._forged()
        if key in self._errands:
            return self._errand_over(key)
        effects = self._participant(key, lambda p: p.abandon())
        # It may have overtaken its assignment, which then begins nothing: if both are of the same board.
        if participant is None and sender is not None:
            self._cancelled[key, sender] = None
            while len(self._cancelled) > self._limits.remembered:
                self._cancelled.popitem(last=False)
        else:
            self._close(key)
        return effects

    def _entrusted(self, key: AttemptKey, errand: Errand, sender: PeerId | None, now: float) -> list[Effect]:
        """Another board hands a whole request over."""
        if sender is not None and sender != errand.asker:
            return self._forged()
        if (key, errand.asker) in self._cancelled:
            self._close(key)
        if key in self._errands or key in self._over or key in self._participants:
            self.counters["duplicate_assignments"] += 1
            return []
        if errand.asker not in self.view.members:
            self.counters["foreign_assignments"] += 1
            return []
        reason: tuple[FailureReason, str] | None = None
        if errand.model not in self._models:
            reason = FailureReason.UNKNOWN_MODEL, f"model {errand.model[:12]} is not on this board"
        elif len(self._participants) + len(self._errands) >= self._limits.participated:
            reason = FailureReason.BUSY, f"busy with {len(self._participants) + len(self._errands)} requests"
        if reason is not None:
            self._close(key)
            return [Send(to=errand.asker, message=refusal(errand, *reason))]
        return self._errands.begin(key, errand, now)

    def _errand_over(self, key: AttemptKey) -> list[Effect]:
        self._close(key)
        return self._errands.end(key)

    def _forged(self) -> list[Effect]:
        self.counters["forged"] += 1
        return []

    def _assigned(self, key: AttemptKey, assign: Assign, now: float) -> list[Effect]:
        coordinator = assign.shards[assign.coordinator].peer
        if any(k.request == key.request and p.coordinator != coordinator for k, p in self._participants.items()):
            return self._forged()  # a request belongs to the board that was asked
        if (key, coordinator) in self._cancelled:
            self._close(key)
        if key in self._participants or key in self._over:
            self.counters["duplicate_assignments"] += 1
            return []
        if any(k.request == key.request and k.attempt > key.attempt for k in self._participants):
            self.counters["old_assignments"] += 1
            self._close(key)
            return []
        me = next((i for i, shard in enumerate(assign.shards) if shard.peer == self.view.self_id), None)
        if me is None:
            self.counters["foreign_assignments"] += 1
            return []
        refusal = self._refusal(assign)
        if refusal is not None:
            reason, detail = refusal
            failed = Failed(
                request=assign.request,
                attempt=assign.attempt,
                epoch=assign.epoch,
                origin=me,
                reason=reason,
                missing=(),
                detail=detail,
            )
            self._close(key)
            return [Send(to=coordinator, message=failed)]
        # An attempt of the same request replaces an older one whose Cancel was lost.
        effects: list[Effect] = []
        for old in [k for k in self._participants if k.request == key.request and k.attempt < key.attempt]:
            effects += self._participant(old, lambda p: p.abandon())
        self._participants[key] = Participant(
            assign=assign,
            me=me,
            facts=self._models[assign.model],
            now=now,
        )
        effects += self._participant(key, lambda p: p.begin())
        for codes, bringer in self._early.take(key):
            effects += self._message(codes, bringer, now)
        return effects

    def _refusal(self, assign: Assign) -> tuple[FailureReason, str] | None:
        facts = self._models.get(assign.model)
        if facts is None:
            return FailureReason.UNKNOWN_MODEL, f"model {assign.model[:12]} is not on this board"
        if assign.codec not in facts.codecs:
            return FailureReason.UNKNOWN_MODEL, f"model {facts.name} has no codec {assign.codec}"
        if assign.shards[-1].tokens.stop != facts.tokens:
            return FailureReason.UNKNOWN_MODEL, f"the shards do not cover the {facts.tokens} tokens of {facts.name}"
        unknown = [s.peer for s in assign.shards if s.peer not in self.view.members]
        if unknown:
            return FailureReason.UNKNOWN_PEER, f"board {unknown[0]} is not known here"
        if len(self._participants) + len(self._errands) >= self._limits.participated:
            return FailureReason.BUSY, f"busy with {len(self._participants)} shards"
        return None

    def _keep_early(self, key: AttemptKey, message: Codes, sender: PeerId | None, now: float) -> None:
        """Codes can overtake the assignment: they come over another connection."""
        if key in self._over:
            self.counters["late_codes"] += 1
        elif not self._early.keep(key, message, sender, now):
            self.counters["early_codes_dropped"] += 1

    def _close(self, key: AttemptKey) -> None:
        self._over[key] = None
        self._early.take(key)
        while len(self._over) > self._limits.remembered:
            self._over.popitem(last=False)

    def _participant(self, key: AttemptKey, move: Move) -> list[Effect]:
        participant = self._participants.get(key)
        if participant is None:
            return []  # the attempt is over: what its compute still delivers is dropped
        return self._settle(key, participant, move(participant))

    def _settle(self, key: AttemptKey, participant: Participant, effects: list[Effect]) -> list[Effect]:
        """After a move: a shard that is done leaves the table, and its attempt is remembered as over."""
        if participant.phase is ParticipantPhase.DONE:
            self.counters["refused_codes"] += participant.refused
            del self._participants[key]
            self._close(key)
        return effects

    def _coordinator(self, request: RequestId, move: Decision) -> list[Effect]:
        coordinator = self._coordinators.get(request)
        if coordinator is None:
            return []
        effects = move(coordinator)
        if coordinator.phase is CoordinatorPhase.DONE:
            del self._coordinators[request]
        return effects

    def _gone(self, view: View) -> list[PeerId]:
        """Boards that could take part before, and cannot in `view`, or not as the one that held their shards.

        A suspect is among them: its requests go on without it at once, and if it was wronged it has lost one share.
        """
        gone = []
        for peer, old in self.view.members.items():
            new = view.members.get(peer)
            usable = new is not None and new.status in _USABLE and boot(new.incarnation) == boot(old.incarnation)
            doubted = usable and new is not None and new.status is Status.SUSPECT and old.status is not Status.SUSPECT
            if old.status in _USABLE and (doubted or not usable) and peer != view.self_id:
                gone.append(peer)
        return sorted(gone)

    def _lost(self, peer: PeerId, now: float) -> list[Effect]:
        """A link broke. Requests first: what a shard here then reports to them is of an attempt already replaced."""
        if peer == self.view.self_id:
            return []  # messages to oneself take no link
        effects = self._each_coordinator(lambda c: c.peer_lost(peer, self.view, now))
        effects += [effect for key in self._errands.of(peer) for effect in self._errand_over(key)]
        return effects + self._each_participant(lambda p: p.peer_lost(peer, now))

    def _each_participant(self, move: Move) -> list[Effect]:
        return [effect for key in list(self._participants) for effect in self._participant(key, move)]

    def _each_coordinator(self, move: Decision) -> list[Effect]:
        return [effect for request in list(self._coordinators) for effect in self._coordinator(request, move)]


def _unknown(model: ModelId) -> NoSuchModel:
    return NoSuchModel(f"model {model[:12]} is not on this board")
