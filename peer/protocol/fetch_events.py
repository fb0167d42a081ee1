"""What can happen to the machine that fetches a model, and what it wants done."""

from collections.abc import Set
from dataclasses import dataclass

from peer.protocol.bulk_messages import FetchChunk, FetchRefused, FetchRequest
from peer.protocol.types import Member, PeerId, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A holder's answer; `sender` is whose key it came under, None without encryption."""

    message: FetchChunk | FetchRefused
    sender: PeerId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderLost:
    """The link to a holder broke, or a request to it could not be handed over."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldersChanged:
    """The view of the ring is another one."""

    view: View


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The manifest was read and there is room: the size of each file, and the parts that an earlier run left."""

    sizes: tuple[int, ...]  # of file 1, 2, ...
    have: Set[tuple[int, int]]  # (file, chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChecked:
    """All parts of a file are on the disk and it was hashed; `right`: it is what the manifest says."""

    file: int
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The model lies complete in the models folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotStored:
    """The manifest was refused, or the disk did not take something."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerDue:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class SendFetch:
    to: Member
    message: FetchRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Its hash is the model's id: parse it, make room for the files -> Prepared or NotStored."""

    manifest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteChunk:
    file: int
    chunk: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFile:
    """Every part was written: hash it -> FileChecked."""

    file: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropFile:
    """It is damaged: forget every part of it."""

    file: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """Every file is right: put the model into its place -> Stored or NotStored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """It cannot be had at present; `reason` is one line, the cause and then the remedy."""

    reason: str


FetchEvent = Answered | HolderLost | HoldersChanged | Prepared | FileChecked | Stored | NotStored | TimerDue
FetchEffect = SendFetch | Prepare | WriteChunk | CheckFile | DropFile | Install | GiveUp
