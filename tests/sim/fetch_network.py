"""Boards that hold a model, one that fetches it, and a network with faults between them: virtual time, seeded."""

import hashlib
import heapq
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random

from peer.protocol.bulk_messages import CHUNK_BYTES, MANIFEST, BulkMessage, FetchChunk, FetchRefusal, FetchRefused
from peer.protocol.bulk_messages import FetchRequest as Request
from peer.protocol.fetch_events import (
    Answered,
    CheckFile,
    DropFile,
    FetchEffect,
    FetchEvent,
    FileChecked,
    GiveUp,
    HoldersChanged,
    Install,
    Prepare,
    Prepared,
    SendFetch,
    Stored,
    TimerDue,
    WriteChunk,
)
from peer.protocol.fetch_parts import FetchPace
from peer.protocol.fetching import Fetching
from peer.protocol.serving import Serving, ServingPace
from peer.protocol.types import Endpoint, Incarnation, Member, ModelId, PeerId, Status, View

ME = PeerId("00" * 8)


def holder_id(index: int) -> PeerId:
    return PeerId(f"{index + 1:016x}")


@dataclass(frozen=True, kw_only=True)
class Content:
    """A model as bytes: the manifest is file 0, and lists the sizes and digests of the others."""

    files: tuple[bytes, ...]

    @classmethod
    def random(cls, sizes: tuple[int, ...], random: Random) -> "Content":
        files = tuple(random.randbytes(size) for size in sizes)
        manifest = b"".join(hashlib.sha256(file).digest() + len(file).to_bytes(8, "big") for file in files)
        return cls(files=(manifest, *files))

    @property
    def model(self) -> ModelId:
        return ModelId(hashlib.sha256(self.files[MANIFEST]).hexdigest())

    def damaged(self, file: int) -> "Content":
        """The same with the middle byte of one file changed."""
        data = bytearray(self.files[file])
        data[len(data) // 2] ^= 1
        return Content(files=(*self.files[:file], bytes(data), *self.files[file + 1 :]))


@dataclass(kw_only=True)
class Holder:
    """One board that gives parts away: its copy, its temper and its state."""

    content: Content
    lies: Counter[str] = field(default_factory=Counter)  # chance in percent of each kind of hostile answer
    alive: bool = True
    mute: bool = False
    incarnation: int = 1
    served: int = 0


class FetchNetwork:
    """`run()` until the fetch is over or the time is."""

    def __init__(self, seed: int, content: Content, holders: list[Holder], *, loss: float = 0.0) -> None:
        self.random = Random(seed)
        self.now = 100.0
        self.content = content
        self.model = content.model
        self.holders = holders
        self.loss = loss
        self.disk: dict[tuple[int, int], bytes] = {}
        self.manifest = b""
        self.installed = False
        self.reason = ""
        self.story: list[str] = []
        self._sequence = count()
        self._heap: list[tuple[float, int, object]] = []
        self._serving = [
            Serving(me=holder_id(index), pace=ServingPace(), now=self.now) for index in range(len(holders))
        ]
        self.machine = self.fresh()

    def fresh(self) -> Fetching:
        """A machine as after a start of the board; the disk stays."""
        return Fetching(
            model=self.model,
            view=self.view(),
            pace=FetchPace(),
            now=self.now,
            first_request=self.random.getrandbits(32),
            manifest=self.manifest,
        )

    def restart(self) -> None:
        """The fetching board was killed: what was on its way is lost, what was written is not."""
        self._heap.clear()
        self.machine = self.fresh()

    def view(self) -> View:
        members = {
            holder_id(index): Member(
                peer=holder_id(index),
                name=f"holder-{index}",
                endpoint=Endpoint(host="h", port=7000 + index),
                public_key=bytes(32),
                incarnation=Incarnation(holder.incarnation),
                status=Status.ALIVE if holder.alive else Status.DEAD,
                models=frozenset({self.model}),
            )
            for index, holder in enumerate(self.holders)
        }
        return View(self_id=ME, members=members)

    def change(self, index: int, **fields: object) -> None:
        """A holder dies, falls silent or comes back, and the fetching board is told."""
        for name, value in fields.items():
            setattr(self.holders[index], name, value)
        self.handle(HoldersChanged(view=self.view()))

    def run(self, until_s: float = 300.0, until_bytes: int | None = None) -> None:
        """Until it is over, the time is, or so many bytes were written."""
        end = self.now + until_s
        while not self.machine.over and self.now < end:
            if until_bytes is not None and sum(map(len, self.disk.values())) >= until_bytes:
                return
            self._step(end)

    def _step(self, end: float) -> None:
        deadlines = [(self._heap[0][0], "arrival")] if self._heap else []
        due = self.machine.deadline()
        if due is not None:
            deadlines.append((due, "timer"))
        for index, serving in enumerate(self._serving):
            at = serving.deadline()
            if at is not None:
                deadlines.append((at, f"serve {index}"))
        at, what = min(deadlines, default=(end, ""))
        if at >= end:
            self.now = end
            return
        self.now = max(self.now, at)
        if what == "arrival":
            self._arrive(heapq.heappop(self._heap)[2])
        elif what == "timer":
            self.handle(TimerDue())
        else:
            index = int(what.split()[1])
            for request in self._serving[index].due(self.now + 1e-9):
                self._serve(index, request)

    def _arrive(self, what: object) -> None:
        if isinstance(what, tuple):
            index, request = what
            holder = self.holders[index]
            if holder.alive and not holder.mute:
                refusal = self._serving[index].asked(request)
                self._serving[index].check()
                if refusal is not None:
                    self._send(refusal)
        else:
            assert isinstance(what, FetchChunk | FetchRefused)
            self.handle(Answered(message=what, sender=what.sender))

    def _serve(self, index: int, request: Request) -> None:
        holder = self.holders[index]
        if not holder.alive or holder.mute:
            return
        data = holder.content.files[request.file]
        body = data[request.offset : request.offset + request.length]
        answer = FetchChunk(
            sender=holder_id(index),
            request=request.request,
            model=request.model,
            file=request.file,
            offset=request.offset,
            size=len(data),
            body=body,
        )
        holder.served += 1
        self._send(self._lie(holder, answer))

    def _lie(self, holder: Holder, answer: FetchChunk) -> BulkMessage:
        for kind, percent in sorted(holder.lies.items()):
            if self.random.randrange(100) >= percent:
                continue
            match kind:
                case "short":
                    return replace(answer, body=answer.body[:-1])
                case "offset":
                    return replace(answer, offset=answer.offset + CHUNK_BYTES)
                case "file":
                    return replace(answer, file=answer.file + 1)
                case "model":
                    return replace(answer, model=ModelId("ff" * 32))
                case "size":
                    return replace(answer, size=answer.size + CHUNK_BYTES)
                case "request":
                    return replace(answer, request=(answer.request + 7) % (1 << 32))
                case "bytes":
                    return replace(answer, body=bytes(len(answer.body)))
                case "refusal":
                    reason = self.random.choice(list(FetchRefusal))
                    return FetchRefused(sender=answer.sender, request=answer.request, reason=reason)
                case _:
                    raise AssertionError(kind)
        return answer

    def _send(self, message: object) -> None:
        if self.random.random() < self.loss:
            return
        for _ in range(2 if self.loss and self.random.random() < 0.05 else 1):
            delay_s = self.random.uniform(0.0005, 0.02)
            if self.loss and self.random.random() < 0.02:
                delay_s += self.random.uniform(1.0, 10.0)
            heapq.heappush(self._heap, (self.now + delay_s, next(self._sequence), message))

    def handle(self, event: FetchEvent) -> None:
        pending = [event]
        for one in pending:
            self.story.append(f"{self.now:9.3f} {str(one)[:200]}")
            effects = self.machine.handle(one, self.now)
            self.machine.check()
            for effect in effects:
                pending += self._perform(effect)

    def _perform(self, effect: FetchEffect) -> list[FetchEvent]:
        match effect:
            case SendFetch(to=to, message=message):
                index = next(i for i in range(len(self.holders)) if holder_id(i) == to.peer)
                self._send((index, message))
            case Prepare(manifest=manifest):
                assert hashlib.sha256(manifest).hexdigest() == self.model
                self.manifest = manifest
                return [Prepared(sizes=tuple(len(f) for f in self.content.files[1:]), have=frozenset(self.disk))]
            case WriteChunk(file=file, chunk=chunk, data=data):
                self.disk[file, chunk] = data
            case CheckFile(file=file):
                parts = sorted((chunk, data) for (number, chunk), data in self.disk.items() if number == file)
                return [FileChecked(file=file, right=b"".join(d for _, d in parts) == self.content.files[file])]
            case DropFile(file=file):
                self.disk = {place: data for place, data in self.disk.items() if place[0] != file}
            case Install():
                self.installed = True
                return [Stored()]
            case GiveUp(reason=reason):
                self.reason = reason
        return []

    def expect_installed(self) -> None:
        """The model is in its place, every byte as it was."""
        __tracebackhide__ = True
        assert self.installed, self.failure("it was not installed")
        for number, data in enumerate(self.content.files[1:], start=1):
            mine = b"".join(part for (file, _), part in sorted(self.disk.items()) if file == number)
            assert mine == data, self.failure(f"file {number} differs")

    def failure(self, words: str) -> str:
        tail = "\n".join(self.story[-30:])
        return f"{words}; reason {self.reason!r}, counters {dict(self.machine.counters)}\n{tail}"
