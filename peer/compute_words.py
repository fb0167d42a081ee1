"""What the daemon and its compute process say to each other, pickled over a socket that only the two of them have."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peer.protocol.accounts import LinkTotals, Load, ShardTotals
from peer.protocol.effects import Deliver
from peer.protocol.events import CancelRequested, Submitted, ViewChanged
from peer.protocol.experience import Case, Lesson
from peer.protocol.outlook import Link
from peer.protocol.profile import BoardProfile
from peer.protocol.requests import RequestLimits
from peer.protocol.tracing import Collected, CollectSpans, OwnSpans
from peer.protocol.types import ModelFacts, ModelId, PeerId, View
from peer.zmq_transport import KeyPair
from runtime.settings import SessionSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """The models of this board, all of them."""

    folders: Mapping[ModelId, Path]
    facts: Mapping[ModelId, ModelFacts]
    usual: ModelId | None  # loaded before the first request


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Setup:
    """The first word to a new compute process. Holds the board's secret key: never logged."""

    host: str
    port: int
    keys: KeyPair | None  # None: no encryption, on loopback only
    admitted: frozenset[bytes]
    view: View
    holdings: Holdings
    settings: SessionSettings
    limits: RequestLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Public keys that open the data socket from now on, and no others."""

    keys: frozenset[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Somebody wants to know how fast this board is with a model: measure it when there is time."""

    model: ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Finish what is under way, then end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The usual model is loaded, the data socket is bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unable:
    """It cannot start: one line with the remedy."""

    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The link to a board broke."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What it counted and measured so far."""

    counters: Counter[str]
    speed: float | None
    profile: BoardProfile
    links: Mapping[PeerId, Link]
    lessons: Mapping[Case, Lesson]
    load: Load = field(default_factory=Load)
    shards: ShardTotals = field(default_factory=ShardTotals)
    traffic: Mapping[PeerId, LinkTotals] = field(default_factory=dict)


Down = Setup | Admitted | Holdings | Measure | Finish | Submitted | CancelRequested | ViewChanged | CollectSpans
Up = Ready | Unable | Lost | Account | Deliver | OwnSpans | Collected
