"""What can happen to the membership machine, and what it wants done."""

from dataclasses import dataclass

from peer.protocol.messages import ControlMessage
from peer.protocol.profile import BoardProfile
from peer.protocol.types import Address, Lock, Member, ModelId, PeerId, View


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlReceived:
    """A message through the control socket of an admitted board, or through the door."""

    message: ControlMessage
    sender: PeerId | None  # whose key it came under; None at the door, and without encryption
    source: str  # address the packet came from; stands in for a host that the sender does not know
    door: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighted:
    """Somebody says that a board's door is at this address: a hint to greet it, nothing more."""

    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkBroke:
    """The data plane lost its connection to a member: no proof of death, but reason to ask at once."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerDue:
    """The time that `deadline` named has come."""

    unread: int = 0  # messages of members that have come and were not handled yet, as far as they were counted


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveRequested:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalRequested:
    """A person takes a board off the list; `revoked`: its key is refused from now on."""

    peer: PeerId
    revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChanged:
    """This board's cluster token was replaced by a person; the other members are to have it too."""

    token: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsHeld:
    """The models that this board can serve now, all of them: the others are to know."""

    models: frozenset[ModelId]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileMeasured:
    """This board measured itself anew: the others are to know."""

    profile: BoardProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class SendControl:
    """To a member's control socket."""

    to: Member
    message: ControlMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Knock:
    """To a door."""

    at: Address
    message: ControlMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Redial:
    """Make the connections to a member anew: TCP's own back-off after a cut is far slower than we are."""

    member: Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """The public keys that may talk to this board's control and data sockets, all of them."""

    keys: frozenset[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptToken:
    """The cluster has a new token: write it down, change the lock of the door."""

    lock: Lock


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRevoked:
    """The boards that are shut out for good, all of them, the oldest first: write them down."""

    peers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """The view changed in a way that others must know."""

    view: View


ControlEvent = (
    ControlReceived
    | Sighted
    | LinkBroke
    | TimerDue
    | LeaveRequested
    | RemovalRequested
    | TokenChanged
    | ModelsHeld
    | ProfileMeasured
)
ControlEffect = SendControl | Knock | Redial | Admit | AdoptToken | KeepRevoked | Publish
