"""From a view to what is told of the boards and of their order. Pure."""

from collections.abc import Callable

from peer.config import HostPort
from peer.protocol import ring
from peer.protocol.partition import partition
from peer.protocol.types import Member, ModelId, View
from peer.reports import MemberReport, RingReport
from runtime.plan import ModelPlan


def member_report(member: Member, *, model_name: Callable[[ModelId], str], now: float) -> MemberReport:
    """One board, as this one sees it."""
    return MemberReport(
        id=member.peer,
        name=member.name,
        endpoint=str(HostPort(host=member.endpoint.host, port=member.endpoint.port)),
        status=member.status.value,
        reason=member.reason,
        incarnation=member.incarnation,
        models=tuple(sorted(model_name(model) for model in member.models)),
        rtt_ms=None if member.rtt_s is None else member.rtt_s * 1e3,
        speed=member.speed,
        since_s=now - member.since_s,
    )


def ring_report(view: View, model: ModelId | None, plan: ModelPlan | None) -> RingReport:
    """The boards that can serve `model`, in order, with even shares of its tokens; no shares without a plan."""
    alive = view.alive(model)
    order = ring.order(alive)
    total = 0 if plan is None else plan.geometry.tokens
    ranges = partition(total, [1.0] * min(len(order), total)) if total else []
    return RingReport(
        epoch=ring.epoch(alive),
        order=order,
        self_=view.self_id,
        names={member.peer: member.name for member in alive},
        model=None if plan is None else plan.name,
        tokens={peer: (r.start, r.stop) for peer, r in zip(order, ranges, strict=False)},
    )
