"""One board of the simulated LAN: what it keeps across its starts, and its connections to the others."""

from collections import deque
from dataclasses import dataclass, field

from peer.protocol import wire
from peer.protocol.control_events import ControlEvent
from peer.protocol.membership import Membership
from peer.protocol.messages import ControlMessage
from peer.protocol.types import Address, Lock, Member, ModelId, PeerId, View, peer_id

MODEL, OTHER_MODEL = ModelId("5a" * 32), ModelId("77" * 32)
PORT = 7411


@dataclass(slots=True, kw_only=True)
class Connection:
    """One way from a board to another's control socket."""

    waiting: deque[ControlMessage] = field(default_factory=deque)
    open: bool = False
    refused: bool = False
    busy: bool = False
    tries: int = 0


Place = tuple[str, int, bytes]


class Board:
    """One board across its starts: key and state folder stay, the machine is new each time."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.key = bytes([index + 1]) * 32
        self.peer = peer_id(self.key)
        self.host = f"h{index}"
        self.starts = 0
        self.up = False
        self.away = False  # said goodbye
        self.version = wire.PROTOCOL_VERSION
        self.models = frozenset({MODEL})
        self.lock: Lock | None = None
        self.revoked: tuple[PeerId, ...] = ()
        self.remembered: tuple[Member, ...] = ()
        self.seeds: tuple[Address, ...] = ()
        self.machine: Membership
        self.admitted: frozenset[bytes] = frozenset()
        self.connections: dict[Place, Connection] = {}
        self.frozen_until = 0.0
        self.inbox: list[ControlEvent] = []
        self.busy_until = 0.0
        self.backlog: deque[ControlEvent] = deque()  # came while it was busy
        self.timer_at: float | None = None
        self.view: View | None = None

    @property
    def door(self) -> Address:
        return Address(host=self.host, port=PORT)
