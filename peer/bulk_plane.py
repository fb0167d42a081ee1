"""The bulk plane: one thread that gives parts of models to other boards and gets this board's own.

It has sockets, an I/O thread and a port of its own, and the lowest priority: a part of a file is as large as the codes
of a thousand rounds, and reading, writing and hashing it must delay neither a ping nor a tensor. The thread decides
nothing; it performs what the two machines want. Links exist only while something travels through them.
"""

import contextlib
import logging
import os
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from peer.errors import Closed, NotFetched, RemoteProtocolError
from peer.model_parts import read_part
from peer.partial_copy import PartialCopy, kept_manifest
from peer.protocol import wire
from peer.protocol.bulk_messages import BulkMessage, FetchChunk, FetchRefusal, FetchRefused, FetchRequest
from peer.protocol.fetch_events import (
    Answered,
    CheckFile,
    DropFile,
    FetchEffect,
    FetchEvent,
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
from peer.protocol.fetch_parts import FetchPace, FetchProgress
from peer.protocol.fetching import Fetching
from peer.protocol.serving import Serving, ServingPace
from peer.protocol.types import ModelId, PeerId, Status, View
from peer.zmq_transport import DataSockets
from runtime.errors import RuntimeFailure
from runtime.manifest import parse_manifest
from runtime.plan import ModelPlan

_log = logging.getLogger(__name__)
_BULK = (FetchRequest, FetchChunk, FetchRefused)
_WAKE = [b""]
_AT_ONCE = 32  # messages between two looks at the timers
_LINK_IDLE_S = 15.0
_PROGRESS_S = 0.1
_NICENESS = 10
_REACHABLE = (Status.ALIVE, Status.SUSPECT, Status.INCOMPATIBLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Fetch a model into the folder `target`, or its manifest alone where that is None."""

    model: ModelId
    target: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """It is here, every digest was right; `place` is None where the manifest alone was wanted."""

    plan: ModelPlan
    place: Path | None
    progress: FetchProgress


class BulkPlane(threading.Thread):
    """Runs until `stop`. Callbacks are called on this thread; they must only pass on what they get."""

    def __init__(
        self,
        *,
        sockets: DataSockets,
        view: View,
        place: Callable[[ModelId], tuple[Path, ModelPlan] | None],
        on_progress: Callable[[FetchProgress], None],
        on_end: Callable[[Fetched | NotFetched], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        """`place` names the folder and the verified plan of a model that this board may give away."""
        super().__init__(name="bulk-plane", daemon=True)
        self.counters: Counter[str] = Counter()
        self._sockets = sockets
        self._view = view
        self._place = place
        self._on_progress = on_progress
        self._on_end = on_end
        self._on_crash = on_crash
        self._serving = Serving(me=view.self_id, pace=ServingPace(), now=time.monotonic())
        self._inbox: deque[View | Wanted] = deque()
        self._stopping = False
        self._links: dict[PeerId, float] = {}  # when each was used last
        self._machine: Fetching | None = None
        self._wanted: Wanted | None = None
        self._plan: ModelPlan | None = None
        self._copy: PartialCopy | None = None
        self._told_at = 0.0

    def submit(self, news: View | Wanted) -> None:
        """A new view, or the next model to fetch once the last one has ended; called by the event loop's thread."""
        self._inbox.append(news)
        with contextlib.suppress(Closed):
            self._sockets.wake()

    def stop(self) -> None:
        """End the thread after the current step; called by the event loop's thread only."""
        self._stopping = True
        with contextlib.suppress(Closed):
            self._sockets.wake()

    def run(self) -> None:
        try:
            with contextlib.suppress(OSError):
                # On Linux a thread has a niceness of its own.
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
            while not self._stopping:
                self._turn()
        except BaseException as problem:  # noqa: BLE001 - a plane that ended must end the daemon, loudly
            self._on_crash(problem)
        finally:
            if self._copy is not None:
                self._copy.close()
            self._sockets.close()

    def _turn(self) -> None:
        deadline = self._deadline()
        self._sockets.wait(None if deadline is None else deadline - time.monotonic())
        for _ in range(_AT_ONCE):
            try:
                received = self._sockets.receive()
                if received is None:
                    break
                if received.frames != _WAKE:
                    self._received(wire.decode(received.frames), received.sender)
            except RemoteProtocolError as problem:
                self.counters["frames_refused"] += 1
                _log.debug("a bulk frame was refused: %s", problem)
        while self._inbox:
            self._news(self._inbox.popleft())
        now = time.monotonic()
        for request in self._serving.due(now):
            self._give(request)
        due = self._machine.deadline() if self._machine else None
        if due is not None and now >= due:
            self._handle(TimerDue())
        self._tidy(now)

    def _deadline(self) -> float | None:
        times = [self._serving.deadline(), self._machine.deadline() if self._machine else None]
        if self._links:
            times.append(min(self._links.values()) + _LINK_IDLE_S)
        return min((at for at in times if at is not None), default=None)

    def _received(self, message: object, sender: PeerId | None) -> None:
        if not isinstance(message, _BULK) or (sender is not None and sender != message.sender):
            self.counters["forged"] += 1
            return
        if not isinstance(message, FetchRequest):
            self._handle(Answered(message=message, sender=sender))
            return
        if not self._reachable(message.sender):
            self.counters["unknown_askers"] += 1
            return
        refusal = self._serving.asked(message)
        if refusal is not None:
            self._send(message.sender, refusal)

    def _give(self, request: FetchRequest) -> None:
        """Read the part and send it, or say why not."""
        found = self._place(request.model)
        answer: FetchChunk | FetchRefusal = FetchRefusal.NOT_HELD
        if found is not None:
            folder, plan = found
            answer = read_part(folder, plan, request, me=self._view.self_id)
        if isinstance(answer, FetchRefusal):
            refused = FetchRefused(sender=self._view.self_id, request=request.request, reason=answer)
            self.counters["parts_refused"] += 1
            self._send(request.sender, refused)
            return
        self.counters["parts_given"] += 1
        if not self._send(request.sender, answer):
            self.counters["parts_not_sent"] += 1

    def _news(self, news: View | Wanted) -> None:
        if isinstance(news, Wanted):
            self._begin(news)
            return
        self._view = news
        for peer in [peer for peer in self._links if not self._reachable(peer)]:
            self._unlink(peer)
        self._handle(HoldersChanged(view=news))

    def _begin(self, wanted: Wanted) -> None:
        """Start a fetch; one at a time is what the event loop asks for."""
        self._wanted, self._plan = wanted, None
        manifest = b"" if wanted.target is None else kept_manifest(wanted.target, wanted.model)
        self._machine = Fetching(
            model=wanted.model,
            view=self._view,
            pace=FetchPace(),
            now=time.monotonic(),
            first_request=secrets.randbits(32),
            manifest=manifest,
        )
        self._handle(TimerDue())

    def _handle(self, event: FetchEvent) -> None:
        """One event and everything that follows from it on this board."""
        pending = [event]
        for one in pending:  # grows while it is walked
            if self._machine is None:
                return
            for effect in self._machine.handle(one, time.monotonic()):
                try:
                    following = self._perform(effect)
                except NotFetched as problem:
                    following = NotStored(reason=str(problem))
                if following is not None:
                    pending.append(following)
        now = time.monotonic()
        if self._machine is not None and self._plan is not None and now >= self._told_at + _PROGRESS_S:
            self._told_at = now
            self._on_progress(self._machine.progress())

    def _perform(self, effect: FetchEffect) -> FetchEvent | None:
        match effect:
            case SendFetch(to=to, message=message):
                return None if self._send(to.peer, message) else HolderLost(peer=to.peer)
            case Prepare(manifest=manifest):
                return self._prepare(manifest)
            case WriteChunk(file=file, chunk=chunk, data=data):
                self._here().write(file, chunk, data)
            case CheckFile(file=file):
                return FileChecked(file=file, right=self._here().right(file))
            case DropFile(file=file):
                self._here().drop(file)
            case Install():
                place = self._here().install()
                self._end(place)
                return Stored()
            case GiveUp(reason=reason):
                self._over(NotFetched(reason))
            case _ as never:
                assert_never(never)
        return None

    def _here(self) -> PartialCopy:
        if self._copy is None:
            raise NotFetched("the copy was closed; fetch the model again")
        return self._copy

    def _prepare(self, manifest: bytes) -> FetchEvent | None:
        """Its hash was right, so it is what the holders run; that this release can read it is another question."""
        try:
            self._plan = parse_manifest(manifest)
        except RuntimeFailure as problem:
            return NotStored(reason=f"the ring's model does not suit this board: {problem}")
        if self._wanted is None or self._wanted.target is None:
            self._end(None)
            return None
        self._copy = PartialCopy(self._wanted.target, manifest, self._plan)
        have = self._copy.have()
        return Prepared(sizes=tuple(file.size_bytes for file in self._plan.files), have=have)

    def _end(self, place: Path | None) -> None:
        if self._machine is not None and self._plan is not None:
            self._over(Fetched(plan=self._plan, place=place, progress=self._machine.progress()))

    def _over(self, result: Fetched | NotFetched) -> None:
        if self._copy is not None:
            self._copy.close()
        self._machine = self._copy = self._wanted = None
        self._on_end(result)

    def _reachable(self, peer: PeerId) -> bool:
        member = self._view.members.get(peer)
        return member is not None and member.status in _REACHABLE and peer != self._view.self_id

    def _send(self, peer: PeerId, message: BulkMessage) -> bool:
        """Hand a message over, through a link that is made when it is missing; False when it cannot be."""
        member = self._view.members.get(peer)
        if member is None or not self._reachable(peer):
            return False
        self._sockets.connect(peer, member.endpoint.host, member.endpoint.bulk_port, member.public_key)
        self._links[peer] = time.monotonic()
        return self._sockets.send(peer, wire.encode(message))

    def _tidy(self, now: float) -> None:
        """Links that broke, and links that nobody used for a while."""
        for peer in list(self._sockets.broken()):
            self.counters["links_broken"] += 1
            self._unlink(peer)
            self._handle(HolderLost(peer=peer))
        for peer in [peer for peer, used_at in self._links.items() if now >= used_at + _LINK_IDLE_S]:
            self._unlink(peer)

    def _unlink(self, peer: PeerId) -> None:
        self._serving.gone(peer)
        self._links.pop(peer, None)
        self._sockets.disconnect(peer)
