"""What a board answers on its control socket: the `ControlApi` of the server, put together from the board's parts."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peer.catalog import Catalog
from peer.compute_process import ComputeProcess
from peer.control_plane import ControlPlane
from peer.errors import Leaving, NoSuchModel
from peer.inference import Inference
from peer.model_reports import model_report, nameless_report
from peer.observation import Observation
from peer.planning import plan_report
from peer.protocol import ring
from peer.protocol.holders import holding
from peer.protocol.types import Member, ModelId, RequestId
from peer.protocol.wire import PROTOCOL_VERSION
from peer.reports import (
    ActivityReport,
    FetchReport,
    InferQuery,
    InferReport,
    MemberReport,
    ModelReport,
    PlanQuery,
    PlanReport,
    RingReport,
    StatusReport,
    TraceReport,
    VerifyReport,
)
from peer.ring_reports import member_report, ring_report
from peer.supply import Supply
from peer.trace_collector import TraceCollector
from runtime.memory import rss_bytes

_PLAN_PATIENCE_S, _PLAN_LOOK_S = 5.0, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Facts of a board that do not change while it runs."""

    me: Member
    endpoint: str  # where it listens, as configured
    version: str
    threads: int
    started_at: float  # local monotonic seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardApi:
    """Answers from the parts of one board; see `peer.control_server.ControlApi` for what each method promises."""

    standing: Standing
    catalog: Catalog
    control: ControlPlane
    compute: ComputeProcess
    supply: Supply
    inference: Inference
    traces: TraceCollector
    observation: Observation
    not_ready: Callable[[], str | None]
    leaving: Callable[[], bool]

    async def status(self) -> StatusReport:
        view = self.control.view()
        alive = view.alive()
        not_ready, default = self.not_ready(), self.catalog.default
        return StatusReport(
            id=self.standing.me.peer,
            name=self.standing.me.name,
            endpoint=self.standing.endpoint,
            version=self.standing.version,
            protocol=PROTOCOL_VERSION,
            pid=os.getpid(),
            ready=not_ready is None,
            uptime_s=time.monotonic() - self.standing.started_at,
            epoch=ring.epoch(alive),
            boards_alive=len(alive),
            rss_bytes=rss_bytes(),
            threads=self.standing.threads,
            default_model=None if default is None else self.catalog.plan(default).name,
            models=len(self.catalog),
            not_ready=not_ready,
        )

    async def members(self) -> Sequence[MemberReport]:
        now = time.monotonic()
        members = sorted(self.control.view().members.values(), key=lambda member: member.peer)
        return [member_report(member, model_name=self.model_name, now=now) for member in members]

    async def ring(self) -> RingReport:
        model = self.catalog.default
        return ring_report(self.control.view(), model, None if model is None else self.catalog.plan(model))

    async def models(self) -> Sequence[ModelReport]:
        elsewhere = await self.supply.elsewhere()
        view, default = self.control.view(), self.catalog.default
        own = [
            model_report(plan, [member.peer for member in view.alive(model)], default=model == default)
            for model, plan in ((model, self.catalog.plan(model)) for model in self.catalog)
        ]
        for model, plan in elsewhere.items():
            holders = [member.peer for member in holding(view, model)]
            own.append(nameless_report(model, holders) if plan is None else model_report(plan, holders))
        return own

    async def verify(self, model: str) -> VerifyReport:
        plan = await asyncio.to_thread(self.catalog.verify, self.catalog.named(model))
        return VerifyReport(model=plan.name, model_id=plan.model_id, files=len(plan.files), bytes=plan.size_bytes)

    async def trace(self, request: str | None) -> TraceReport:
        return await self.traces.collect(None if request is None else RequestId(int(request, 16)))

    async def activity(self) -> ActivityReport:
        return await self.observation.activity()

    async def infer(self, query: InferQuery, images: Sequence[bytes]) -> Sequence[InferReport]:
        with self.observation.failures_counted():
            return await self._infer(query, images)

    async def _infer(self, query: InferQuery, images: Sequence[bytes]) -> Sequence[InferReport]:
        if self.leaving():
            raise Leaving("this board is leaving the ring; ask another one")
        if self.catalog.default is None:
            raise NoSuchModel(f"this board has no model yet: {self.supply.state}; ask again later, or another board")
        return await self.inference.infer(query, images)

    async def plan(self, query: PlanQuery) -> PlanReport:
        facts = self.catalog.facts()[self.catalog.named(query.model)]
        until = time.monotonic() + _PLAN_PATIENCE_S
        if not self._profiled(facts.model):
            self.compute.measure(facts.model)
        # A board that has just started measures itself first, and a model that nobody has used yet.
        while not self._profiled(facts.model) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_PLAN_LOOK_S)
        account = self.compute.account
        links, lessons = (account.links, account.lessons) if account else ({}, {})
        view, now = self.control.view(), time.monotonic()
        return plan_report(query, facts, view, links=links, lessons=lessons, now=now)

    async def fetch(self, model: str) -> FetchReport:
        return await self.supply.fetch(model)

    def model_name(self, model: ModelId) -> str:
        """A model's name where this board holds it, the beginning of its digest elsewhere."""
        return self.catalog.plan(model).name if model in self.catalog else model[:12]

    def _profiled(self, model: ModelId) -> bool:
        """Whether this board has told how fast it is with a model."""
        profile = self.control.view().members[self.standing.me.peer].profile
        return profile is not None and profile.times(model) is not None
