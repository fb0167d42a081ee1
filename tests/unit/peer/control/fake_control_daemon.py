"""A daemon that answers from memory, for the tests of the control socket and of `peerctl`."""

import asyncio
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from peer.errors import BadInput, DeadlineExceeded, NoSuchModel, NotEnoughBoards, Refused
from peer.reports import (
    ActivityReport,
    BoardActivityReport,
    BoardCostReport,
    CodecErrorReport,
    CodecReport,
    ExaminationReport,
    ExplainReport,
    FindingReport,
    ForgetQuery,
    InferQuery,
    InferReport,
    JoinQuery,
    LabelReport,
    MemberReport,
    ModelReport,
    PlanBoardReport,
    PlanQuery,
    PlanReport,
    PlanRowReport,
    RingReport,
    RotationReport,
    ShareReport,
    SpanReport,
    StatusReport,
    TimingReport,
    TokenReport,
    TracedBoardReport,
    TraceReport,
    VerifyReport,
)

MODEL_ID = "ab" * 32


def member(number: int) -> MemberReport:
    return MemberReport(
        id=f"{number:016x}",
        name=f"board-{number}",
        endpoint=f"127.0.0.1:{7700 + number}",
        status="alive",
        reason="",
        incarnation=1,
        models=("toy",),
        rtt_ms=0.25,
        speed=None,
        since_s=12.0,
    )


def report(name: str, boards: int) -> InferReport:
    shares = tuple(
        ShareReport(id=f"{n:016x}", name=f"board-{n}", tokens=(n * 64 // boards, (n + 1) * 64 // boards))
        for n in range(boards)
    )
    costs = tuple(
        BoardCostReport(
            id=share.id,
            name=share.name,
            tokens=share.tokens,
            prepare_ms=0.1,
            compute_ms=2.0,
            wait_ms=0.5,
            encode_ms=0.2,
            decode_ms=0.2,
            sent_bytes=640,
        )
        for share in shares
    )
    return InferReport(
        input=name,
        request="00000000000000aa",
        model="toy",
        model_id=MODEL_ID,
        top=(LabelReport(label="cat", index=3, probability=0.9), LabelReport(label="dog", index=5, probability=0.1)),
        mode="single" if boards == 1 else "sequence",
        codec=None if boards == 1 else "int8",
        exchange=None if boards == 1 else "direct",
        boards=shares,
        latency_ms=4.0 if boards == 1 else 5.0,
        predicted_ms=None,
        rounds=0 if boards == 1 else 6,
        attempts=1,
        degraded=False,
        lost=(),
        payload_bytes=0 if boards == 1 else 1280,
        wire_bytes=0 if boards == 1 else 1500,
        input_bytes=3072,
        timing=TimingReport(prepare_ms=0.1, compute_ms=2.0, wait_ms=0.5, gather_ms=0.1),
        explain=ExplainReport(reason="asked for", boards=costs),
        logits=(0.5, -1.0),
    )


@dataclass(slots=True)
class FakeApi:
    """Answers like a ring of `size` boards with one model; remembers what it was asked."""

    size: int = 4
    queries: list[tuple[InferQuery, tuple[bytes, ...]]] = field(default_factory=list)
    wishes: list[JoinQuery | ForgetQuery | str] = field(default_factory=list)
    findings: list[FindingReport] = field(default_factory=list)
    pid: int = 1
    started: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def status(self) -> StatusReport:
        return StatusReport(
            id=member(0).id,
            name="board-0",
            endpoint="127.0.0.1:7700",
            version="0",
            protocol=1,
            pid=self.pid,
            ready=True,
            uptime_s=1.0,
            epoch=7,
            boards_alive=self.size,
            rss_bytes=1,
            threads=1,
            default_model="toy",
        )

    async def members(self) -> Sequence[MemberReport]:
        odd = replace(member(self.size), name="\x1b[2Jevil", status="dead", reason="gone\nfor good", rtt_ms=None)
        return [*(member(n) for n in range(self.size)), odd]

    async def ring(self) -> RingReport:
        ids = tuple(member(n).id for n in range(self.size))
        return RingReport(
            epoch=7,
            order=ids,
            self_=ids[0],
            names={peer: f"board-{n}" for n, peer in enumerate(ids)},
            model="toy",
            tokens={peer: (n * 16, n * 16 + 16) for n, peer in enumerate(ids)},
        )

    async def activity(self) -> ActivityReport:
        boards = tuple(
            BoardActivityReport(
                id=m.id,
                name=m.name,
                status=m.status,
                rtt_ms=m.rtt_ms,
                speed=12_345.0,
                share=1 / self.size,
                compute_ms=2.5,
                wait_ms=0.5,
                sent_bytes_per_s=1_500.0,
                received_bytes_per_s=2_500_000.0,
            )
            for m in await self.members()
        )
        return ActivityReport(
            id=member(0).id,
            name="board-0",
            not_ready=None,
            window_s=60.0,
            answered=7,
            degraded=1,
            failed=2,
            shards=9,
            answers_per_s=1.5,
            p50_ms=4.0,
            p95_ms=9.0,
            running=2,
            waiting=3,
            hottest_c=71.4,
            throttled=("policy0 at 600 of 1500 MHz",),
            boards=boards,
        )

    async def trace(self, request: str | None) -> TraceReport:
        if request not in (None, "00000000000000aa"):
            raise Refused(f"this board knows nothing of request {request}; it remembers the last 64 it took part in")
        boards = tuple(
            TracedBoardReport(
                id=m.id,
                name=m.name,
                tokens=(0, 64),
                missing=m.status != "alive",
                clock_error_ms=0.25,
                rtt_ms=0.5,
                spans=()
                if m.status != "alive"
                else (
                    SpanReport(kind="encode", attempt=1, block=0, origin=m.id, start_ms=0.0, duration_ms=2.0),
                    SpanReport(kind="query", attempt=1, block=0, origin=m.id, start_ms=2.0, duration_ms=2.0),
                    SpanReport(kind="attend", attempt=1, block=0, origin=m.id, start_ms=4.0, duration_ms=4.0),
                ),
            )
            for m in await self.members()
        )
        return TraceReport(
            request="00000000000000aa",
            model="toy",
            mode="sequence",
            codec="int8",
            exchange="direct",
            attempt=1,
            attempts=2,
            asked=member(0).id,
            boards=boards,
        )

    async def models(self) -> Sequence[ModelReport]:
        codec = CodecReport(
            name="int8",
            kind="int8",
            source="kv",
            bits_per_token=2112.0,
            bits_per_block=(2112.0,) * 6,
            compression=3.9,
            error=CodecErrorReport(kind="relative", value=0.004),
        )
        return [
            ModelReport(
                name="toy",
                model_id=MODEL_ID,
                bytes=5_000_000,
                task="image-classification",
                labels=10,
                tokens=64,
                width=128,
                blocks=6,
                default=True,
                default_codec="int8",
                boards=(member(0).id, member(1).id),
                provenance={"weights": "random"},
                codecs=(codec,),
            )
        ]

    async def verify(self, model: str) -> VerifyReport:
        if model != "toy":
            raise NoSuchModel(f"no model {model!r} on this board; see peerctl models")
        return VerifyReport(model=model, model_id=MODEL_ID, files=9, bytes=5_000_000)

    async def plan(self, query: PlanQuery) -> PlanReport:
        if query.model not in (None, "toy"):
            raise NoSuchModel(f"no model {query.model!r} on this ring; see peerctl models")
        rows = [
            PlanRowReport(
                boards=boards,
                mode="single" if boards == 1 else "sequence",
                names=tuple(f"board-{n}" for n in range(boards)),
                tokens=(64 // boards,) * boards,
                codec=None if boards == 1 else codec,
                exchange=None if boards == 1 else "direct",
                predicted_ms=40.0 / boards + bool(codec == "int8"),
                per_s=10.0,
                measured=codec == "int8",
            )
            for codec in ("int8", "f32")
            for boards in (1, 2, 4)
        ]
        boards = (
            PlanBoardReport(
                id=member(n).id,
                name=f"board-{n}",
                measured=n < 2,
                alone_ms=41.0,
                slower=1.25,
                link_mbit=100.0,
                rtt_ms=None if n == 0 else 0.5,
                reason="\x1b[2Jevil" if n == 3 else "",
            )
            for n in range(self.size)
        )
        return PlanReport(
            model="toy",
            model_id=MODEL_ID,
            default_codec="int8",
            choice=rows[2],
            reason="4 boards are predicted to take 11 ms, this board alone 41 ms",
            settings=tuple(rows),
            boards=tuple(boards),
        )

    async def infer(self, query: InferQuery, images: Sequence[bytes]) -> Sequence[InferReport]:
        self.queries.append((query, tuple(images)))
        if query.model not in (None, "toy"):
            raise NoSuchModel(f"no model {query.model!r} on this ring; see peerctl models")
        if query.codec not in (None, "int8"):
            raise Refused(f"unknown codec {query.codec!r}; see peerctl models show toy")
        if (query.boards or 1) > self.size:
            raise NotEnoughBoards(
                f"{query.boards} boards asked for, {self.size} are alive; start more or ask for fewer"
            )
        if images[0] == b"late":
            raise DeadlineExceeded("not done in time; give more with --deadline")
        if images[0] == b"surprise":
            raise ZeroDivisionError("a secret detail")
        if images[0] == b"forever":
            self.started.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        for name, image in zip(query.inputs, images, strict=True):
            if image == b"bad":
                raise BadInput(f"{name}: cannot be decoded; give a JPEG or PNG")
        return [report(name, query.boards or self.size) for name in query.inputs]

    async def token(self) -> TokenReport:
        return TokenReport(token="tr1-the-daemons", generation=2)

    async def rotate(self) -> RotationReport:
        return RotationReport(generation=3, told=self.size - 1)

    async def join(self, query: JoinQuery) -> RotationReport:
        self.wishes.append(query)
        if not query.everybody:
            raise Refused("this board is in a ring with others; leave first, or --everybody")
        return RotationReport(generation=1, told=self.size - 1)

    async def leave(self) -> None:
        self.wishes.append("leave")

    async def forget(self, query: ForgetQuery) -> RotationReport:
        self.wishes.append(query)
        return RotationReport(generation=0, told=2, forgotten=(member(3).id,))

    async def doctor(self) -> ExaminationReport:
        return ExaminationReport(
            findings=tuple(self.findings),
            pid=self.pid,
            host="127.0.0.1",
            port=7700,
            model_bytes=5_000_000,
            boards=(),
            interfaces=(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    socket: Path
    api: FakeApi

    def connect(self) -> socket.socket:
        """A bare connection, to misbehave on."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # With a timeout set, a full backlog would be an error instead of a wait.
        connection.connect(str(self.socket))
        connection.settimeout(10)
        return connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    code: int
    out: str
    err: str
