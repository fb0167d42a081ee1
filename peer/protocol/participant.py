"""One board's part of one attempt: block after block, its own codes out, everybody's codes in.

Legal moves (anything else raises LocalProtocolError, or is counted and dropped when another board caused it):

    phase       event                      -> phase        effects
    COMPUTING   CodesReady(block)             EXCHANGING   Send own codes, Query
    COMPUTING   ShardDone                     DONE         Send Feature to the coordinator, Forget
    EXCHANGING  QueryDone                     EXCHANGING   -
    *           Codes of another shard        same         in a ring: Send it on to the successor
    EXCHANGING  (all codes in, query done)    COMPUTING    Attend
    EXCHANGING  codes stay out                DONE         Send Failed(ROUND_TIMEOUT, missing), Forget
    EXCHANGING  the same, no time to run anew, or late enough and allowed
                                           -> EXCHANGING   - (from here on without those shards), or Attend
    *           ComputeFailed                 DONE         Send Failed(reason), Forget
    *           cancelled, deadline passed    DONE         Forget

Codes stay out when the round takes longer than the asked board allows, or as soon as their board is lost.
"""

from enum import Enum

from peer.errors import LocalProtocolError
from peer.protocol.effects import Attend, Begin, Effect, Forget, Payload, Query, Send
from peer.protocol.events import CodesReady, ComputeFailed, ShardDone
from peer.protocol.messages import Assign, Codes, DataMessage, Failed, Feature
from peer.protocol.ring import successor
from peer.protocol.types import AttemptKey, CodecFacts, Exchange, FailureReason, ModelFacts, PeerId, Timing, Traffic

STEPS_PATIENT = 10.0  # a board whose own part of a block takes so and so long waits for others as many times longer


class Phase(Enum):
    COMPUTING = "computing"
    EXCHANGING = "exchanging"
    DONE = "done"


class Participant:
    """State of one shard. Owns no tensors: payloads pass through it unopened, only their length is checked."""

    def __init__(self, *, assign: Assign, me: int, facts: ModelFacts, now: float) -> None:
        self.key = AttemptKey(request=assign.request, attempt=assign.attempt)
        self.phase = Phase.COMPUTING
        self.refused = 0  # code messages that were dropped: duplicates, impossible blocks
        self._assign = assign
        self._me = me
        self._blocks = facts.blocks
        self._codec: CodecFacts = facts.codecs[assign.codec]
        self._peers = tuple(i for i in range(len(assign.shards)) if i != me)
        # Each board starts with its successor, so that no board is everybody's first.
        self._targets = tuple(i for i in self._peers if i > me) + tuple(i for i in self._peers if i < me)
        self._tokens = {i: assign.shards[i].tokens.count for i in self._peers}
        self._block = 0
        self._arrived: dict[int, dict[int, bytes]] = {}
        self._query_done = False
        self._lost: set[int] = set()  # shards whose board is gone: its codes may have come before it went
        self._without: set[int] = set()  # shards that are done without
        self._step_from = now  # when this board's own work on the block began
        self._step_s = 0.0
        self._deadline_at = now + assign.deadline_ms / 1000
        self._round_at = now  # when this board's own codes of the current round were out
        self._waiting_since = now
        self._wait_s = 0.0
        self._payload_bytes = 0
        self._messages = 0

    @property
    def coordinator(self) -> PeerId:
        return self._assign.shards[self._assign.coordinator].peer

    def brings(self, origin: int) -> PeerId | None:
        """The board that hands us the codes of shard `origin`; None where nobody may."""
        if origin not in self._tokens:
            return None
        shards = self._assign.shards
        bringer = origin if self._assign.exchange is Exchange.DIRECT else (self._me - 1) % len(shards)
        return shards[bringer].peer

    def deadline(self) -> float:
        """Local monotonic time at which this shard wants a `timer`."""
        if self.phase is Phase.EXCHANGING and self._missing():
            return min(self._deadline_at, self._round_at + self._patience_s)
        return self._deadline_at

    @property
    def _patience_s(self) -> float:
        """What the asked board allows; more where this board itself is slow, as others may be."""
        return max(self._assign.round_ms / 1000, STEPS_PATIENT * self._step_s)

    def begin(self) -> list[Effect]:
        return [Begin(key=self.key, assign=self._assign, me=self._me)]

    def codes_ready(self, event: CodesReady, now: float) -> list[Effect]:
        """Own codes go out first, then the local work runs while they travel."""
        self._expect(Phase.COMPUTING, "CodesReady")
        if event.block != self._block or event.block >= self._blocks:
            raise LocalProtocolError(f"codes of block {event.block} came while block {self._block} was due")
        self.phase = Phase.EXCHANGING
        self._round_at = self._waiting_since = now
        self._step_s = now - self._step_from
        effects: list[Effect] = []
        if self._peers:
            own = self._message(event.block, self._me, event.body)
            targets = self._targets if self._assign.exchange is Exchange.DIRECT else (self._next(),)
            effects += [self._send(target, own) for target in targets if target not in self._without]
        missing = tuple(i for i in self._missing() if i in self._lost)
        if missing:
            effects += self._stay_out(missing, "the board is gone", now)
        if self.phase is Phase.EXCHANGING:
            effects.append(Query(key=self.key))
        return effects

    def query_done(self, now: float) -> list[Effect]:
        self._expect(Phase.EXCHANGING, "QueryDone")
        self._query_done = True
        self._waiting_since = now
        return self._attend(now)

    def codes(self, message: Codes, now: float) -> list[Effect]:
        """Another shard's codes: at most one round ahead of ours, each (block, origin) accepted once."""
        origin, block = message.origin, message.block
        known = origin in self._tokens and origin not in self._without and message.epoch == self._assign.epoch
        # A peer can be one round ahead, never two: it needs our codes of the round between.
        if not known or block >= self._blocks or block not in self._near():
            self.refused += 1
            return []
        expected = self._codec.payload_bytes(block=block, tokens=self._tokens[origin], batch=self._assign.batch)
        if len(message.body) != expected:
            detail = f"codes of {len(message.body)} bytes where {expected} are due"
            return self._fail(FailureReason.BAD_PAYLOAD, (origin,), detail)
        arrived = self._arrived.setdefault(block, {})
        if origin in arrived:
            self.refused += 1
            return []
        arrived[origin] = message.body
        effects: list[Effect] = []
        if self._assign.exchange is Exchange.RING and self._next() != origin:
            effects.append(self._send(self._next(), message))
        if block == self._block and not self._missing():
            effects += self._attend(now)
        return effects

    def shard_done(self, event: ShardDone) -> list[Effect]:
        self._expect(Phase.COMPUTING, "ShardDone")
        if self._block < self._blocks:
            raise LocalProtocolError(f"ShardDone came before block {self._block} of {self._blocks}")
        self.phase = Phase.DONE
        timing = Timing(
            prepare_us=event.timing.prepare_us,
            compute_us=event.timing.compute_us,
            encode_us=event.timing.encode_us,
            decode_us=event.timing.decode_us,
            wait_us=round(self._wait_s * 1e6),
        )
        feature = Feature(
            request=self.key.request,
            attempt=self.key.attempt,
            epoch=self._assign.epoch,
            origin=self._me,
            lost=tuple(sorted(self._without)),
            timing=timing,
            # The driver counts bytes where they are handed over and fills in what it saw.
            traffic=Traffic(payload_bytes=self._payload_bytes, wire_bytes=0, messages=self._messages),
            body=event.body,
        )
        return [Send(to=self.coordinator, message=feature), Forget(key=self.key)]

    def compute_failed(self, event: ComputeFailed) -> list[Effect]:
        return self._fail(event.reason, event.blamed, event.detail)

    def peer_lost(self, peer: PeerId, now: float) -> list[Effect]:
        """A board whose codes are still needed cannot send them any more; without its coordinator a shard is moot."""
        if peer == self.coordinator and self._assign.coordinator != self._me:
            return self.abandon()
        self._lost |= {i for i in self._peers if self._assign.shards[i].peer == peer}
        missing = tuple(i for i in self._missing() if i in self._lost)
        return self._stay_out(missing, "the link broke", now) if missing else []

    def timer(self, now: float) -> list[Effect]:
        if now >= self._deadline_at:
            return self.abandon()
        # A board whose codes are all here is slow itself; that is nobody's fault and ends with the deadline.
        if now >= self.deadline():
            return self._stay_out(self._missing(), f"no codes for {self._patience_s:.3g} s", now)
        return []

    def _stay_out(self, missing: tuple[int, ...], detail: str, now: float) -> list[Effect]:
        """Codes that do not come: report them, or go on without where no time is left to run anew.

        Or where that is allowed from this block on: before, a new run is short, and says more of these tokens.

        In a ring others hand codes on, so what does not come says little about who is gone; such an attempt fails.
        """
        if now >= self._deadline_at:
            return self.abandon()  # news may come before the timer is looked at; nobody waits for it any more
        assign = self._assign
        anew = (self._deadline_at - now) * 1000 > assign.degrade_ms and self._block < assign.degrade_from
        if assign.exchange is Exchange.RING or anew:
            return self._fail(FailureReason.ROUND_TIMEOUT, missing, detail)
        self._without |= set(missing)
        for arrived in self._arrived.values():
            for origin in missing:
                arrived.pop(origin, None)
        return self._attend(now)

    def abandon(self) -> list[Effect]:
        """Nobody waits for this attempt any more."""
        self.phase = Phase.DONE
        return [Forget(key=self.key)]

    def check(self) -> None:
        """Invariants, for tests: never more than one round ahead, never own codes among the arrived."""
        assert self._arrived.keys() <= self._near(), self._arrived.keys()
        assert all(self._me not in arrived for arrived in self._arrived.values())
        assert not any(self._without & arrived.keys() for arrived in self._arrived.values())
        assert not self._without or self._assign.exchange is Exchange.DIRECT

    def _attend(self, now: float) -> list[Effect]:
        if self.phase is not Phase.EXCHANGING or not self._query_done:
            return []
        if self._missing():
            return []
        arrived = self._arrived.pop(self._block, {})
        self._wait_s += now - self._waiting_since
        self._step_from = now
        self._block = self._codec.next_round(self._block + 1)  # silent blocks in between are done without others
        self._query_done = False
        self.phase = Phase.COMPUTING
        payloads = tuple(
            Payload(origin=i, tokens=self._tokens[i], body=arrived[i]) for i in self._peers if i in arrived
        )
        return [Attend(key=self.key, payloads=payloads)]

    def _near(self) -> set[int]:
        """The block whose round is in progress or to come, and that of the round after it."""
        return {self._block, self._codec.next_round(self._block + 1)}

    def _missing(self) -> tuple[int, ...]:
        """Shards whose codes of the round in progress, or of the one to come, are not here."""
        if self._block >= self._blocks:
            return ()
        arrived = self._arrived.get(self._block, {})
        return tuple(i for i in self._peers if i not in arrived and i not in self._without)

    def _next(self) -> int:
        return successor(self._me, len(self._assign.shards))

    def _send(self, target: int, message: DataMessage) -> Send:
        if isinstance(message, Codes):
            self._payload_bytes += len(message.body)
        self._messages += 1
        return Send(to=self._assign.shards[target].peer, message=message)

    def _message(self, block: int, origin: int, body: bytes) -> Codes:
        assign = self._assign
        return Codes(
            request=assign.request, attempt=assign.attempt, epoch=assign.epoch, block=block, origin=origin, body=body
        )

    def _fail(self, reason: FailureReason, missing: tuple[int, ...], detail: str) -> list[Effect]:
        self.phase = Phase.DONE
        failed = Failed(
            request=self.key.request,
            attempt=self.key.attempt,
            epoch=self._assign.epoch,
            origin=self._me,
            reason=reason,
            missing=missing,
            detail=detail,
        )
        return [Send(to=self.coordinator, message=failed), Forget(key=self.key)]

    def _expect(self, phase: Phase, event: str) -> None:
        if self.phase is not phase:
            raise LocalProtocolError(f"{event} came to a shard that is {self.phase.value}")
