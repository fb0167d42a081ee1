"""What can happen to the membership machine, and what it wants done."""

from dataclasses import dataclass

from peer.protocol.messages import ControlMessage
from peer.protocol.types import PeerId, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a control message goes."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlReceived:
    message: ControlMessage
    source: str  # address the packet came from; stands in for a host that the sender does not know


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkBroke:
    """The data plane lost its connection to a member: not proof of death, but no new work until it is heard again."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerDue:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveRequested:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class SendControl:
    to: Address
    message: ControlMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """The view changed in a way that others must know."""

    view: View


ControlEvent = ControlReceived | LinkBroke | TimerDue | LeaveRequested
ControlEffect = SendControl | Publish
