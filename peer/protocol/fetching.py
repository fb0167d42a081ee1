"""Getting one model from the boards that hold it: `handle(event, now) -> effects`. Pure.

    MANIFEST     all parts of it, from one board; its SHA-256 is the model's id      -> PREPARING
                 another hash: that board is not asked again                         -> MANIFEST, from another board
    PREPARING    there is room, and parts of an earlier run were found               -> FILES
    FILES        every file has all its parts and the right hash                     -> INSTALLING
                 a file has another hash: it is fetched anew, from one board alone,
                 so that a second wrong hash tells whose fault it is                 -> FILES
    INSTALLING   it lies in its place                                                -> DONE
    any          no holder is left to ask, nothing new for a while, a full disk      -> FAILED

Parts are asked for a few at a time, of whoever has least to do. What does not come is asked of others, with more
patience and fewer questions at once, since most likely the line is slow.
"""

import hashlib
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import assert_never

from peer.protocol.bulk_messages import CHUNK_BYTES, MANIFEST, FetchChunk, FetchRefusal, FetchRefused, FetchRequest
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
from peer.protocol.fetch_parts import FetchPace, FetchProgress, FileParts, Phase
from peer.protocol.holders import Holders
from peer.protocol.types import ModelId, PeerId, View

MAX_MANIFEST_BYTES = 4 << 20
_MAX_LATE = 64
_MAX_ATTEMPTS = 8  # at one file
_REQUESTS = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    holder: PeerId
    file: int
    chunk: int
    generation: int
    due_at: float


class Fetching:
    """The fetch of one model by one board. Not thread-safe: one driver owns it."""

    def __init__(
        self, *, model: ModelId, view: View, pace: FetchPace, now: float, first_request: int = 0, manifest: bytes = b""
    ) -> None:
        """`manifest` was kept from an earlier run; it is not trusted more than one from the network.

        `first_request` differs from fetch to fetch, so that answers to an earlier one are not taken for answers to
        this one.
        """
        self.model = model
        self.phase = Phase.MANIFEST
        self.counters: Counter[str] = Counter()
        self._me = view.self_id
        self._pace = pace
        self._holders = Holders(model, view)
        self._kept = manifest
        self._manifest: dict[int, bytes] = {}
        self._files: dict[int, FileParts] = {MANIFEST: FileParts(size=1)}  # until the first answer tells its real size
        self._queue: deque[tuple[int, int]] = deque([(MANIFEST, 0)])
        self._open: dict[int, _Question] = {}
        self._late: OrderedDict[int, _Question] = OrderedDict()
        self._next = first_request % _REQUESTS
        self._window = pace.window
        self._patience_s = pace.patience_s
        self._news_at = now
        self._wake_at: float | None = now
        self._resumed_bytes = 0
        self._received_bytes = 0

    @property
    def over(self) -> bool:
        return self.phase in (Phase.DONE, Phase.FAILED)

    def deadline(self) -> float | None:
        """Local monotonic time at which a TimerDue is wanted, or None."""
        if self.phase not in (Phase.MANIFEST, Phase.FILES):
            return None
        times = [question.due_at for question in self._open.values()]
        times.append(self._news_at + self._pace.give_up_s)
        if self._wake_at is not None:
            times.append(self._wake_at)
        return min(times)

    def progress(self) -> FetchProgress:
        files = [file for number, file in self._files.items() if number != MANIFEST]
        return FetchProgress(
            done_bytes=sum(file.length(chunk) for file in files for chunk in file.received),
            total_bytes=sum(file.size for file in files),
            resumed_bytes=self._resumed_bytes,
            received_bytes=self._received_bytes,
            boards=self._holders.contributors(),
        )

    def handle(self, event: FetchEvent, now: float) -> list[FetchEffect]:
        """The one mutating entry. Effects are to be performed in order."""
        if self.over:
            return []
        match event:
            case Answered():
                effects = self._answered(event, now)
            case HolderLost(peer=peer):
                self._silent(peer, now)
                effects = []
            case HoldersChanged(view=view):
                for peer in self._holders.changed(view):
                    self._lost(peer)
                effects = []
            case Prepared():
                effects = self._prepared(event, now)
            case FileChecked():
                effects = self._checked(event, now)
            case Stored():
                self.phase = Phase.DONE
                effects = []
            case NotStored(reason=reason):
                effects = self._fail(reason)
            case TimerDue():
                effects = self._timer(now)
            case _ as never:
                assert_never(never)
        return effects + self._ask(now)

    def check(self) -> None:
        """Invariants, for tests."""
        assert len(self._open) <= self._pace.window
        assert len(self._late) <= _MAX_LATE
        asked = [(q.file, q.chunk) for q in self._open.values()]
        assert len(set(asked)) == len(asked)
        assert not set(asked) & set(self._queue)
        assert len(set(self._queue)) == len(self._queue)
        if self.phase is Phase.FILES:
            for number, file in self._files.items():
                missing = {(number, chunk) for chunk in range(file.chunks)} - {(number, c) for c in file.received}
                assert number == MANIFEST or missing <= set(asked) | set(self._queue)
        if self.phase in (Phase.INSTALLING, Phase.DONE):
            assert all(file.right for number, file in self._files.items() if number != MANIFEST)

    def _ask(self, now: float) -> list[FetchEffect]:
        """Open as many questions as the window allows."""
        if self.phase not in (Phase.MANIFEST, Phase.FILES):
            return []
        effects: list[FetchEffect] = []
        if self._kept:
            manifest, self._kept = self._kept, b""
            if hashlib.sha256(manifest).hexdigest() == self.model:
                return self._prepare(manifest)
        hopeless = self._holders.hopeless()
        if hopeless:
            return self._fail(f"no board has an intact copy of model {self.model[:12]}: {hopeless}")
        self._wake_at = None
        while self._queue and len(self._open) < self._window:
            holder = self._holder(self._queue[0][0], now)
            if holder is None:
                self._wake_at = self._holders.rested_at(now)
                break
            number, chunk = self._queue.popleft()  # of a manifest that starts anew it is another one
            effects.append(self._question(holder, number, chunk, now))
        return effects

    def _holder(self, number: int, now: float) -> PeerId | None:
        """Whom to ask for a part of a file that may come from one board only."""
        file = self._files[number]
        if file.alone is None and (number == MANIFEST or file.generation):
            file.alone = self._holders.choose(now)
        return self._holders.choose(now, None if file.alone is None else (file.alone,))

    def _question(self, holder: PeerId, number: int, chunk: int, now: float) -> SendFetch:
        file = self._files[number]
        request, self._next = self._next, (self._next + 1) % _REQUESTS
        self._open[request] = _Question(
            holder=holder, file=number, chunk=chunk, generation=file.generation, due_at=now + self._patience_s
        )
        self._holders.asked(holder)
        unknown = number == MANIFEST and not file.received
        message = FetchRequest(
            sender=self._me,
            request=request,
            model=self.model,
            file=number,
            offset=chunk * CHUNK_BYTES,
            length=CHUNK_BYTES if unknown else file.length(chunk),
        )
        return SendFetch(to=self._holders.member(holder), message=message)

    def _answered(self, event: Answered, now: float) -> list[FetchEffect]:
        """What a holder says, if it was asked; the question is open no longer."""
        message, request = event.message, event.message.request
        question = self._open.get(request) or self._late.get(request)
        said_by = message.sender if event.sender is None else event.sender
        if question is None or not question.holder == said_by == message.sender:
            self.counters["unasked"] += 1
            return []
        late = self._open.pop(request, None) is None
        if late:
            del self._late[request]
            self.counters["late"] += 1
        else:
            self._holders.released(question.holder)
        if isinstance(message, FetchRefused):
            return self._refused(message.reason, question, now)
        effects = self._chunk(message, question, now)
        if late:
            self._withdraw(question)
        return effects

    def _chunk(self, message: FetchChunk, question: _Question, now: float) -> list[FetchEffect]:
        self._received_bytes += len(message.body)
        file = self._files[question.file]
        if self._stale(question):
            self.counters["duplicates"] += 1
            return []
        place = (message.model, message.file, message.offset)
        if place != (self.model, question.file, question.chunk * CHUNK_BYTES):
            return self._distrust(question, "answers with another part than it was asked for")
        if question.file == MANIFEST and not file.received:
            if not 0 < message.size <= MAX_MANIFEST_BYTES:
                return self._distrust(question, f"has a manifest of {message.size} bytes")
            file.size = message.size
            self._queue.extend((MANIFEST, chunk) for chunk in range(1, file.chunks))
        if message.size != file.size or len(message.body) != file.length(question.chunk):
            return self._distrust(question, "has a file of another size than the manifest says")
        self._take(question, now)
        if question.file == MANIFEST:
            self._manifest[question.chunk] = message.body
            return self._manifest_complete() if len(file.received) == file.chunks else []
        effects: list[FetchEffect] = [WriteChunk(file=question.file, chunk=question.chunk, data=message.body)]
        if len(file.received) == file.chunks:
            effects.append(CheckFile(file=question.file))
        return effects

    def _take(self, question: _Question, now: float) -> None:
        """The part is here, and the line works."""
        file = self._files[question.file]
        file.received.add(question.chunk)
        file.sources.add(question.holder)
        self._holders.gave(question.holder)
        self._news_at = now
        self._patience_s = max(self._pace.patience_s, self._patience_s / 2)
        self._window = min(self._pace.window, self._window + 1)

    def _withdraw(self, late: _Question) -> None:
        """A part came after it was given up: nobody else needs to be asked for it."""
        place = (late.file, late.chunk)
        if late.chunk not in self._files[late.file].received:
            return
        if place in self._queue:
            self._queue.remove(place)
        for request in [request for request, q in self._open.items() if (q.file, q.chunk) == place]:
            self._abandon(request)

    def _abandon(self, request: int) -> _Question:
        """Stop waiting for an answer; should it come after all, it may still be of use."""
        question = self._open.pop(request)
        self._holders.released(question.holder)
        self._late[request] = question
        while len(self._late) > _MAX_LATE:
            self._late.popitem(last=False)
        return question

    def _requeue(self, question: _Question) -> None:
        place = (question.file, question.chunk)
        others = ((q.file, q.chunk) for q in self._open.values())
        if not self._stale(question) and place not in self._queue and place not in others:
            self._queue.appendleft(place)

    def _stale(self, question: _Question) -> bool:
        file = self._files[question.file]
        return question.generation != file.generation or question.chunk in file.received

    def _refused(self, reason: FetchRefusal, question: _Question, now: float) -> list[FetchEffect]:
        match reason:
            case FetchRefusal.BUSY:
                self.counters["busy"] += 1
                self._holders.rest(question.holder, self._pace.busy_s, now)
                self._requeue(question)
                return []
            case FetchRefusal.NOT_HELD:
                return self._distrust(question, "does not hold it after all")
            case FetchRefusal.NO_SUCH_PART:
                return self._distrust(question, "has a file of another size than the manifest says")
            case FetchRefusal.UNREADABLE:
                return self._distrust(question, "cannot read its own copy")
            case _ as never:
                assert_never(never)

    def _distrust(self, question: _Question, why: str) -> list[FetchEffect]:
        self.counters["distrusted"] += 1
        self._holders.distrust(question.holder, why)
        self._requeue(question)
        self._lost(question.holder)
        return []

    def _lost(self, peer: PeerId) -> None:
        """What it was asked for will not come; no file waits for it in particular."""
        for request in [request for request, question in self._open.items() if question.holder == peer]:
            self._requeue(self._abandon(request))
        for number, file in self._files.items():
            if file.alone == peer and not file.right:
                file.alone = None
                # Of a manifest that came half from another board nobody could say whose fault a wrong hash is.
                if number == MANIFEST and self.phase is Phase.MANIFEST:
                    self._restart_manifest()

    def _silent(self, peer: PeerId, now: float) -> None:
        if self._holders.knows(peer):
            self._holders.failed(peer, self._pace.rest_s, now)
            self._lost(peer)

    def _timer(self, now: float) -> list[FetchEffect]:
        late = {question.holder for question in self._open.values() if now >= question.due_at}
        for peer in late:
            self._silent(peer, now)
            self.counters["timeouts"] += 1
        if late:
            self._patience_s = min(2 * self._patience_s, self._pace.patience_longest_s)
            self._window = max(1, self._window // 2)
        # Compared as the deadline was computed: a difference can round to just below it, and the timer would never end.
        if now < self._news_at + self._pace.give_up_s:
            return []
        silent_s = now - self._news_at
        who = "boards that hold it answer" if self._holders.any_alive() else "board that holds it is alive"
        return self._fail(
            f"nothing of model {self.model[:12]} came for {silent_s:.0f} s: no {who}; see peerctl members"
        )

    def _manifest_complete(self) -> list[FetchEffect]:
        file = self._files[MANIFEST]
        manifest = b"".join(self._manifest[chunk] for chunk in range(file.chunks))
        if hashlib.sha256(manifest).hexdigest() == self.model:
            return self._prepare(manifest)
        self.counters["wrong_manifests"] += 1
        for source in file.sources:
            if source is not None:
                self._holders.distrust(source, "has another manifest than it says")
        self._restart_manifest()
        file.alone = None
        return []

    def _restart_manifest(self) -> None:
        file = self._files[MANIFEST]
        for request in list(self._open):
            self._abandon(request)
        file.restart()
        file.size = 1
        self._manifest.clear()
        self._queue = deque([(MANIFEST, 0)])

    def _prepare(self, manifest: bytes) -> list[FetchEffect]:
        self.phase = Phase.PREPARING
        for request in list(self._open):
            self._abandon(request)
        self._queue.clear()
        self._manifest.clear()
        return [Prepare(manifest=manifest)]

    def _prepared(self, event: Prepared, now: float) -> list[FetchEffect]:
        if self.phase is not Phase.PREPARING:
            return []
        self.phase = Phase.FILES
        self._news_at = now
        effects: list[FetchEffect] = []
        for number, size in enumerate(event.sizes, start=1):
            file = self._files[number] = FileParts(size=size)
            file.received = {chunk for chunk in range(file.chunks) if (number, chunk) in event.have}
            if file.received:
                file.sources.add(None)
                self._resumed_bytes += sum(file.length(chunk) for chunk in file.received)
            self._queue.extend((number, chunk) for chunk in range(file.chunks) if chunk not in file.received)
            if len(file.received) == file.chunks:
                effects.append(CheckFile(file=number))
        return effects

    def _checked(self, event: FileChecked, now: float) -> list[FetchEffect]:
        file = self._files.get(event.file)
        if self.phase is not Phase.FILES or file is None or len(file.received) < file.chunks:
            return []
        self._news_at = now
        if not event.right:
            return self._damaged(event.file, file)
        file.right = True
        if not all(other.right for number, other in self._files.items() if number != MANIFEST):
            return []
        self.phase = Phase.INSTALLING
        return [Install()]

    def _damaged(self, number: int, file: FileParts) -> list[FetchEffect]:
        """Once more, from one board: when that is wrong again, it is that board's fault, and another one is asked."""
        self.counters["damaged_files"] += 1
        if not file.chunks or file.generation + 1 >= _MAX_ATTEMPTS:
            return self._fail(
                f"file {number} of model {self.model[:12]} is damaged every time; check this board's disk"
            )
        if len(file.sources) == 1:
            (source,) = file.sources
            if source is not None:
                self._holders.distrust(source, "has a damaged copy")
                self._lost(source)
        file.restart()
        file.alone = None
        self._queue.extendleft((number, chunk) for chunk in reversed(range(file.chunks)))
        return [DropFile(file=number)]

    def _fail(self, reason: str) -> list[FetchEffect]:
        self.phase = Phase.FAILED
        self._queue.clear()
        self._open.clear()
        return [GiveUp(reason=reason)]
