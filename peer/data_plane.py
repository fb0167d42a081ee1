"""The data plane: one thread that owns the tensor sockets, the request machine and the compute.

Between a frame on the wire and the stage that needs it there is no event loop, no queue and no other thread: that is
what a round costs least with. The thread decides nothing; it moves events into the machine and performs its effects.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from peer.errors import BadFrame, Closed, RemoteProtocolError
from peer.protocol import wire
from peer.protocol.accounts import Ledger, Load
from peer.protocol.effects import (
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
from peer.protocol.events import Event, MessageReceived, PeerLost, Submitted, TimerDue, ViewChanged
from peer.protocol.messages import (
    Assign,
    Cancel,
    Codes,
    DataMessage,
    Echo,
    Errand,
    Failed,
    Feature,
    Message,
    Sound,
)
from peer.protocol.requests import Requests
from peer.protocol.span import SpanKind
from peer.protocol.spans import SpanLog
from peer.protocol.trace_messages import Spans, SpansRequest, TraceMessage
from peer.protocol.tracing import Collected, CollectSpans, OwnSpans, Tracing
from peer.protocol.types import AttemptKey, PeerId, Status, Traffic, View
from peer.pulse import Pulse
from peer.worker import Compute
from peer.zmq_transport import TICK_S, DataSockets, Received

_log = logging.getLogger(__name__)
_DATA = (Assign, Codes, Feature, Failed, Cancel, Errand, Sound, Echo)
_WAKE = [b""]  # what ends a receive when the event loop has something to say
_BACKLOG = 64  # messages taken at once between two undivided runs
_IDLE_S = 15.0  # how long a board that stands by sleeps at most
_FRAMING_BYTES = 2  # ZMTP: flags and a one-byte length
_FRAMING_LONG_BYTES = 9  # frames over 255 bytes: flags and eight bytes
_CURVE_BYTES = 33  # CurveZMQ MESSAGE command: name, nonce, authenticator, flags


class DataPlane(threading.Thread):
    """Runs until `stop`. Callbacks are called on this thread; they must only pass on what they get."""

    def __init__(
        self,
        *,
        sockets: DataSockets,
        machine: Requests,
        compute: Compute,
        encrypted: bool,
        pulse: Pulse | None = None,
        spans: SpanLog | None = None,
        on_deliver: Callable[[Deliver], None],
        on_trace: Callable[[OwnSpans | Collected], None] = lambda _: None,
        on_lost: Callable[[PeerId], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name="data-plane", daemon=True)
        self.counters: Counter[str] = Counter()
        self.dispatched = 0  # events and measured steps so far; may be read by other threads
        self.turns = 0  # of the loop, steps of measurements among them; may be read by other threads
        self.ledger = Ledger()
        self._sockets = sockets
        self._machine = machine
        self._compute = compute
        self._overhead = _CURVE_BYTES if encrypted else 0
        self._spans = SpanLog() if spans is None else spans
        self._tracing = Tracing(me=machine.view.self_id, log=self._spans)
        self._on_deliver = on_deliver
        self._on_trace = on_trace
        self._on_lost = on_lost
        self._on_crash = on_crash
        self._inbox: deque[Event | CollectSpans] = deque()
        self._measuring = False
        # Undivided runs hold the thread for long: what waits to be said or sent goes first.
        self._put_off: deque[RunWhole | RunErrand] = deque()
        self._stopping = False
        self._tick_at = 0.0
        self._pulse = pulse or Pulse()  # since when the thread has been in one step
        self._traffic: dict[AttemptKey, int] = {}
        # In a direct exchange one message goes to every board: it is encoded once.
        self._encoded: tuple[DataMessage | None, list[bytes]] = (None, [])

    @property
    def machine_counters(self) -> Counter[str]:
        """What the request machine counted; may be read by other threads."""
        return self._machine.counters

    @property
    def load(self) -> Load:
        """What is under way; may be read by other threads."""
        return self._machine.load

    def submit(self, event: Event | CollectSpans) -> None:
        """Hand over an event for the machine, or the wish for a trace; called by one other thread only."""
        self._inbox.append(event)
        self._sockets.wake()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way; may be read by other threads."""
        return self._machine.idle and not self._inbox and not self._put_off

    def stop(self) -> None:
        """End the thread after the current effect; called by the thread that submits."""
        self._stopping = True
        try:
            self._sockets.wake()
        except Closed:
            return

    def run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as problem:  # noqa: BLE001 - a data plane that ended must end the daemon, loudly
            self._on_crash(problem)
        finally:
            self._sockets.close()

    def _turn(self) -> None:
        """Stand by until something happens; in the middle of a request, take one message after the other."""
        self.turns += 1
        something = True
        if self._machine.idle and not self._inbox:
            pause_s = min(_IDLE_S, self._measure())
            deadline = self._machine.deadline()
            something = self._sockets.wait(pause_s if deadline is None else min(pause_s, deadline - time.monotonic()))
            self._tick()
        elif self._put_off:
            something = self._sockets.wait(0.0)
            if not something and not self._inbox and not self._compute.busy(time.monotonic()):
                self._run(self._put_off.popleft())
                something = self._sockets.wait(0.0)
            # Answers before questions: what came during a run tells which boards are free for what is asked next.
            for _ in range(_BACKLOG):
                if not something or not self._receive():
                    break
                something = self._sockets.wait(0.0)
            something = False
        if something:
            self._receive()
        while self._inbox:
            news = self._inbox.popleft()
            if isinstance(news, CollectSpans):
                self._collect(news)
            else:
                self._dispatch(news)
        if time.monotonic() >= self._tick_at:
            self._tick()

    def _measure(self) -> float:
        """A step of what this board measures of itself, unless a link is being measured; seconds until the next."""
        if self._machine.soundings.running:
            return _IDLE_S
        pause_s = self._compute.idle(time.monotonic())
        self._measuring = pause_s <= 0
        self.dispatched += self._measuring
        return pause_s

    def _receive(self) -> bool:
        """One message, if one comes in time; whether one came."""
        try:
            received = self._sockets.receive()
            if received is not None and received.frames != _WAKE:
                self._take(wire.decode(received.frames), received)
            return received is not None
        except RemoteProtocolError as problem:
            self._refuse(problem)
            return True

    def _run(self, effect: RunWhole | RunErrand) -> None:
        """An undivided run, unless nobody waits for it any more."""
        if not self._machine.wants(effect):
            return
        self._pulse.begin()
        run = self._compute.whole(effect) if isinstance(effect, RunWhole) else self._compute.errand(effect)
        self._dispatch(run)

    def _tick(self) -> None:
        """What need not be looked at with every message: links and timers."""
        self._tick_at = time.monotonic() + TICK_S
        for peer in self._sockets.broken():
            self.counters["links_broken"] += 1
            self._on_lost(peer)
            self._dispatch(PeerLost(peer=peer))
        deadline = self._machine.deadline()
        if deadline is not None and time.monotonic() >= deadline:
            self._dispatch(TimerDue())

    def _take(self, message: Message, received: Received) -> None:
        peer = received.sender
        if peer is not None:
            self.ledger.received[peer] += self._wire_bytes(received.frames)
        if isinstance(message, Codes):
            key = AttemptKey(message.request, message.attempt)
            now = time.monotonic()
            self._spans.note(key, (SpanKind.CAME, message.block, message.origin, now, now))
            if peer is not None:
                self.ledger.rounds[peer] += 1
        elif isinstance(message, SpansRequest | Spans):
            self._trace(message, peer)
            return
        elif not isinstance(message, _DATA):
            raise BadFrame("a membership message came to the data port")
        self._dispatch(MessageReceived(message=message, sender=peer))

    def _collect(self, wanted: CollectSpans) -> None:
        own, questions = self._tracing.ask(wanted, time.monotonic())
        for peer, question in questions:
            self._sockets.send(peer, wire.encode(question))  # one that is not reached will be missing
        self._on_trace(own)

    def _trace(self, message: TraceMessage, sender: PeerId | None) -> None:
        answer = self._tracing.received(message, sender, time.monotonic())
        if isinstance(answer, Collected):
            self._on_trace(answer)
        elif answer is not None:
            answer = replace(answer, sent_us=round(time.monotonic() * 1e6))
            self._sockets.send(message.sender, wire.encode(answer))

    def _refuse(self, problem: RemoteProtocolError) -> None:
        self.counters["frames_refused"] += 1
        # The first of a streak is worth a person's look, the others are noise.
        level = logging.WARNING if self.counters["frames_refused"] == 1 else logging.DEBUG
        _log.log(level, "a frame was refused: %s", problem)

    def _dispatch(self, first: Event) -> None:
        """One event and everything that follows from it on this board."""
        self.dispatched += 1
        if isinstance(first, ViewChanged):
            self._link(first.view)
        elif isinstance(first, Submitted):
            self._spans.submitted(first.submission.request, time.monotonic())
        pending: list[Event] = [first]
        for event in pending:  # grows while it is walked
            self._pulse.begin()
            for effect in self._machine.handle(event, time.monotonic()):
                following = self._perform(effect)
                if following is not None:
                    pending.append(following)
        self._pulse.end()

    def _perform(self, effect: Effect) -> Event | None:
        match effect:
            case Send():
                return self._send(effect)
            case Query():
                return self._compute.query(effect)
            case Attend():
                return self._compute.attend(effect)
            case Begin():
                return self._compute.begin(effect)
            case RunHead():
                return self._compute.head(effect)
            case RunWhole() | RunErrand():
                self._put_off.append(effect)
            case Forget(key=key):
                self._traffic.pop(key, None)
                self._compute.forget(effect)
            case Deliver(request=request):
                for key in [key for key in self._traffic if key.request == request]:
                    del self._traffic[key]
                self._on_deliver(effect)
            case _ as never:
                assert_never(never)
        return None

    def _send(self, effect: Send) -> Event | None:
        message = effect.message
        if isinstance(message, Echo) and self._measuring:
            message = replace(message, busy=True)  # it may have waited for a step of ours
        if isinstance(message, Sound | Echo):
            self._sockets.send(effect.to, wire.encode(message))  # nobody depends on it
            return None
        key = AttemptKey(request=message.request, attempt=message.attempt)
        if isinstance(message, Feature):
            message = self._with_traffic(message, key, remote=effect.to != self._machine.view.self_id)
            self.ledger.shard(message.timing)
        if effect.to == self._machine.view.self_id:
            return MessageReceived(message=message, sender=effect.to)
        known, frames = self._encoded
        if message is not known:
            if isinstance(message, Errand):
                self._spans.errand(key, message, effect.to, time.monotonic())
            elif isinstance(message, Codes):
                self._spans.sent(key, message.block, message.origin, time.monotonic())
            frames = wire.encode(message)
            self._encoded = (message, frames)
        if not self._sockets.send(effect.to, frames):
            self.counters["messages_not_sent"] += 1
            return PeerLost(peer=effect.to)
        size = self._wire_bytes(frames)
        self.ledger.sent[effect.to] += size
        if not isinstance(message, Cancel):  # an attempt that is called off has no account any more
            self._traffic[key] = self._traffic.get(key, 0) + size
        return None

    def _with_traffic(self, feature: Feature, key: AttemptKey, *, remote: bool) -> Feature:
        """Fill in what this board handed to its sockets for the attempt, the feature's own message included."""
        sent = self._traffic.get(key, 0)
        if remote:
            sent += self._wire_bytes(wire.encode(feature)) + 2  # the count itself takes up to two bytes more
        traffic = Traffic(
            payload_bytes=feature.traffic.payload_bytes, wire_bytes=sent, messages=feature.traffic.messages
        )
        return replace(feature, traffic=traffic)

    def _wire_bytes(self, frames: list[bytes]) -> int:
        total = 0
        for frame in frames:  # a plain loop: this runs for every message of every round
            size = len(frame) + self._overhead
            total += size + (_FRAMING_BYTES if size < 256 else _FRAMING_LONG_BYTES)
        return total

    def _link(self, view: View) -> None:
        """Keep a link to every board that may take part in a request."""
        self.ledger.keep(view.members)
        for member in view.members.values():
            if member.peer == view.self_id:
                continue
            if member.status in (Status.ALIVE, Status.SUSPECT):
                place = member.endpoint
                self._sockets.connect(member.peer, place.host, place.data_port, member.public_key)
            elif member.status is not Status.LEFT:  # who leaves hears the end of what it has begun
                self._sockets.disconnect(member.peer)
