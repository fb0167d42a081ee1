"""One classification from image files to reports: decode, submit to the data plane, wait, put into words."""

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Sequence

from peer.catalog import Catalog
from peer.codec_wish import wanted_codecs
from peer.errors import BadInput, Refused, RequestError
from peer.protocol.effects import Answer, Deliver
from peer.protocol.events import CancelRequested, Mode, Submission, Submitted
from peer.protocol.types import MAX_BATCH, Exchange, ModelId, PeerId, RequestId, View
from peer.reports import (
    DEFAULT_DEADLINE_S,
    BoardCostReport,
    ExplainReport,
    InferQuery,
    InferReport,
    LabelReport,
    ShareReport,
    TimingReport,
)
from peer.request_meter import RequestMeter
from runtime.errors import ImageError
from runtime.images import decode_rows
from runtime.plan import ModelPlan
from runtime.scores import likeliest, unpack

_NEWS = 0.3  # of a request, in what is usual
_DECODED_AT_ONCE = 2  # pictures: each may take hundreds of megabytes for a moment, and the cores are needed elsewhere
_EXCHANGES = {"direct": Exchange.DIRECT, "ring": Exchange.RING}


class Inference:
    """Answers `infer`. Lives on the event loop; `submit` hands requests to the compute process."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        submit: Callable[[Submitted | CancelRequested], None],
        view: Callable[[], View],
        meter: RequestMeter,
    ) -> None:
        self._meter = meter
        self._catalog = catalog
        self._submit = submit
        self._view = view
        self._handover_s = 0.0  # between decoding and the request machine, and back
        self._waiting: dict[RequestId, asyncio.Future[Answer]] = {}
        self.begun = 0  # requests so far
        self._decoding = asyncio.Semaphore(_DECODED_AT_ONCE)
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def busy(self) -> int:
        """Requests under way."""
        return len(self._waiting)

    async def idle(self) -> None:
        """Wait until no request is under way."""
        await self._idle.wait()

    def delivered(self, effect: Deliver) -> None:
        """A request ended; called on the event loop."""
        future = self._waiting.get(effect.request)
        if future is None or future.done():
            return
        if isinstance(effect.result, RequestError):
            future.set_exception(effect.result)
        else:
            future.set_result(effect.result)

    async def infer(self, query: InferQuery, images: Sequence[bytes]) -> Sequence[InferReport]:
        """Classify the images as one batch. Raises RequestError."""
        started_at = time.monotonic()
        self.begun += 1
        model = self._catalog.named(query.model)
        plan = self._catalog.plan(model)
        alone = query.mode == "single" or query.boards == 1
        within = None if alone else query.within
        codec, *others = wanted_codecs(self._catalog.facts_of(model), query.codec, within)
        exchange = self._exchange(query.exchange)
        if not 1 <= len(images) <= MAX_BATCH:
            raise BadInput(f"{len(images)} images in one request; send between 1 and {MAX_BATCH}")
        deadline_at = started_at + (DEFAULT_DEADLINE_S if query.deadline_s is None else query.deadline_s)
        rows = [await self._rows(plan, name, data) for name, data in zip(query.inputs, images, strict=True)]
        decoded_s = time.monotonic() - started_at
        if query.shares is not None and not all(0 < share < math.inf for share in query.shares):
            raise Refused("every board's share must be a positive number")
        submission = Submission(
            request=RequestId(secrets.randbits(64)),
            model=model,
            codec=codec,
            others=tuple(others),
            within=within,
            exchange=exchange,
            mode=self._mode(query.mode),
            boards=query.boards,
            shares=query.shares,
            batch=len(images),
            deadline_at=deadline_at,
            rows=b"".join(rows),
            file=bytes(images[0]) if len(images) == 1 else None,
            requests=query.requests,
            allow_degraded=query.allow_degraded,
        )
        decoded_s = time.monotonic() - started_at
        answer = await self._answer(submission)
        ended_at = time.monotonic()
        latency_s = ended_at - started_at
        self._meter.answer(
            answer,
            pictures=len(images),
            allowed=query.allow_degraded,
            decoded_s=decoded_s,
            latency_s=latency_s,
            now=ended_at,
        )
        predicted_s = None if answer.predicted_s is None else decoded_s + self._handover_s + answer.predicted_s
        # Twice over a socket, and the words that the answer is put into: much the same for every request.
        handover_s = max(0.0, latency_s - decoded_s - answer.latency_s)
        self._handover_s += _NEWS * (handover_s - self._handover_s)
        return self._reports(query, submission, answer, latency_s, predicted_s)

    def _exchange(self, name: str | None) -> Exchange:
        # One hop costs less than N-1 wherever every board reaches every other one directly.
        chosen = name or "direct"
        if chosen not in _EXCHANGES:
            raise Refused(f"no exchange {chosen}; choose direct or ring")
        return _EXCHANGES[chosen]

    def _mode(self, name: str) -> Mode:
        try:
            return Mode(name)
        except ValueError:
            raise Refused(f"no mode {name}; choose auto, single or sequence") from None

    async def _rows(self, plan: ModelPlan, name: str, data: bytes) -> bytes:
        try:
            async with self._decoding:
                rows = await asyncio.to_thread(decode_rows, data, plan.image, plan.geometry)
        except ImageError as problem:
            raise BadInput(f"{name}: {problem}") from problem
        return rows.tobytes()

    async def _answer(self, submission: Submission) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[submission.request] = future
        self._idle.clear()
        try:
            self._submit(Submitted(submission=submission))
            return await future
        except asyncio.CancelledError:
            self._submit(CancelRequested(request=submission.request))
            raise
        finally:
            del self._waiting[submission.request]
            if not self._waiting:
                self._idle.set()

    def _reports(
        self,
        query: InferQuery,
        submission: Submission,
        answer: Answer,
        latency_s: float,
        predicted_s: float | None,
    ) -> list[InferReport]:
        plan = self._catalog.plan(ModelId(submission.model))
        logits = unpack(answer.logits, submission.batch)
        shares = tuple(
            ShareReport(
                id=b.shard.peer, name=self._name(b.shard.peer), tokens=(b.shard.tokens.start, b.shard.tokens.stop)
            )
            for b in answer.boards
        )
        explain = ExplainReport(reason=answer.reason, boards=self._costs(answer))
        timing = _slowest(answer)
        reports = []
        for name, row in zip(query.inputs, logits, strict=True):
            top = tuple(
                LabelReport(label=plan.labels[s.index], index=s.index, probability=s.probability)
                for s in likeliest(row, query.top)
            )
            reports.append(
                InferReport(
                    input=name,
                    request=f"{submission.request:016x}",
                    model=plan.name,
                    model_id=plan.model_id,
                    top=top,
                    mode="single" if answer.single else "sequence",
                    codec=None if answer.single else answer.codec,
                    exchange=None if answer.single else answer.exchange.name.lower(),
                    boards=shares,
                    latency_ms=latency_s * 1e3,
                    predicted_ms=None if predicted_s is None else predicted_s * 1e3,
                    rounds=answer.rounds,
                    attempts=answer.attempts,
                    degraded=answer.degraded,
                    lost=answer.lost,
                    payload_bytes=sum(b.traffic.payload_bytes for b in answer.boards),
                    wire_bytes=sum(b.traffic.wire_bytes for b in answer.boards),
                    input_bytes=answer.input_bytes,
                    timing=timing,
                    explain=explain,
                    logits=tuple(float(value) for value in row) if query.logits else None,
                )
            )
        return reports

    def _costs(self, answer: Answer) -> tuple[BoardCostReport, ...]:
        return tuple(
            BoardCostReport(
                id=board.shard.peer,
                name=self._name(board.shard.peer),
                tokens=(board.shard.tokens.start, board.shard.tokens.stop),
                prepare_ms=board.timing.prepare_us / 1e3,
                compute_ms=board.timing.compute_us / 1e3,
                wait_ms=board.timing.wait_us / 1e3,
                encode_ms=board.timing.encode_us / 1e3,
                decode_ms=board.timing.decode_us / 1e3,
                sent_bytes=board.traffic.wire_bytes,
            )
            for board in answer.boards
        )

    def _name(self, peer: PeerId) -> str:
        member = self._view().members.get(peer)
        return member.name if member else peer


def _slowest(answer: Answer) -> TimingReport:
    """Timing of the board that computed longest."""
    board = max(answer.boards, key=lambda board: board.timing.compute_us)
    timing = board.timing
    return TimingReport(
        prepare_ms=timing.prepare_us / 1e3,
        compute_ms=(timing.compute_us + timing.encode_us + timing.decode_us) / 1e3,
        wait_ms=timing.wait_us / 1e3,
        gather_ms=answer.gather_s * 1e3,
    )
