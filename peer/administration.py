"""What a person may do to a running board besides asking it for work: token, list of boards, leaving, examination.

Decides whether a wish is granted, then puts it to the membership as an event; the membership tells the other boards.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from peer import findings
from peer.cluster_token import TOKEN_BYTES, format_token, parse_token
from peer.config import HostPort, PeerdConfig
from peer.errors import ConfigError, Refused
from peer.findings import Answer, Finding, finding_report
from peer.protocol.control_events import ControlEvent, RemovalRequested, Sighted, TokenChanged
from peer.protocol.types import Address, Lock, Member, Status, View
from peer.reports import ExaminationReport, ForgetQuery, JoinQuery, RotationReport, TokenReport

_HERE = (Status.ALIVE, Status.SUSPECT)
_SEED_PATIENCE_S = 1.0
_MIN_PREFIX = 4  # digits of an id: fewer are easily a slip of the finger
_MAX_LISTED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What a daemon knows of itself at one moment, for its examination."""

    cloned: bool
    membership: Mapping[str, int]
    data_plane: Mapping[str, int]
    stuck_s: float
    refused_at_door: int
    refused_members: int
    looks_around: bool
    discovery_problem: str | None
    strangers_seen: int
    models_problem: str  # empty where this board holds a model
    model_bytes: int


class Membership(Protocol):
    """The part of the control plane that is needed here."""

    def view(self) -> View: ...

    def handle(self, event: ControlEvent) -> None: ...


class Administration:
    """Serves one board's person."""

    def __init__(
        self,
        *,
        config: PeerdConfig,
        membership: Membership,
        lock: Callable[[], Lock | None],
        vitals: Callable[[], Vitals],
        leave: Callable[[], None],
    ) -> None:
        """`leave` begins the daemon's orderly end."""
        self._config = config
        self._membership = membership
        self._lock = lock
        self._vitals = vitals
        self._leave = leave

    async def token(self) -> TokenReport:
        """The token that counts now; Refused without one."""
        lock = self._locked()
        return TokenReport(token=format_token(lock.token), generation=lock.generation)

    async def rotate(self) -> RotationReport:
        """A new token for the whole cluster: the old one opens no door any more."""
        self._locked()
        self._membership.handle(TokenChanged(token=os.urandom(TOKEN_BYTES)))
        return self._report()

    async def join(self, query: JoinQuery) -> RotationReport:
        """Take another cluster's token; with `everybody` the boards of this one come along, else there must be none."""
        token, everybody = _token_of(query.token), query.everybody
        if self._locked().token == token:
            return self._report()
        others = [member for member in self._others() if member.status is not Status.REFUSED]
        here = [member for member in others if member.status in _HERE]
        if here and not everybody:
            raise Refused(
                f"this board is in a ring with {_names(here)}; run peerctl leave, join and start it again, or take "
                "them all along with --everybody"
            )
        if not everybody:
            # They belong to the other cluster, or will say so with the new token: their keys open nothing until then.
            for member in others:
                self._membership.handle(RemovalRequested(peer=member.peer, revoked=False))
        self._membership.handle(TokenChanged(token=token))
        for member in others:
            place = member.endpoint
            self._membership.handle(Sighted(address=Address(host=place.host, port=place.port)))
        return self._report(() if everybody else others)

    async def leave(self) -> None:
        """Begin to go: what is under way is finished, the others hear a goodbye."""
        self._leave()

    async def forget(self, query: ForgetQuery) -> RotationReport:
        """Take a board off every list; with `revoke` also a living one, whose key and token then open nothing."""
        member = self._named(query.id)
        if query.revoke:
            if self._lock() is None:
                raise Refused(
                    "without a cluster token every program on this machine may say it is any board; give the boards a "
                    "token to be able to revoke one"
                )
            # First off the lists, so that nobody hands it the new token.
            self._membership.handle(RemovalRequested(peer=member.peer, revoked=True))
            self._membership.handle(TokenChanged(token=os.urandom(TOKEN_BYTES)))
            return self._report([member])
        if member.status in (*_HERE, Status.INCOMPATIBLE):
            raise Refused(
                f"{member.name} ({member.peer}) is {member.status.value} and would come back at once; run "
                "peerctl leave on it first, or shut it out for good with --revoke"
            )
        self._membership.handle(RemovalRequested(peer=member.peer, revoked=False))
        return self._report([member])

    async def doctor(self) -> ExaminationReport:
        """Everything that can be seen from inside the daemon."""
        view, vitals, lock = self._membership.view(), self._vitals(), self._lock()
        seen = await asyncio.gather(*(self._seed(seed, view) for seed in self._config.seeds))
        counts = vitals.membership
        found: list[Finding] = [
            *findings.boards(view.members.values(), view.self_id),
            *findings.identity(seen_elsewhere=counts.get("own_id_seen_elsewhere", 0), cloned=vitals.cloned),
            findings.token(encrypted=lock is not None, generation=lock.generation if lock else 0),
            *findings.door(
                refused=vitals.refused_at_door,
                by_members=vitals.refused_members,
                revoked=counts.get("revoked_boards", 0),
                forged=counts.get("forged", 0),
            ),
            findings.state_folder(
                place=str(self._config.state_dir), writable=os.access(self._config.state_dir, os.W_OK | os.X_OK)
            ),
            *findings.discovery(
                looks=vitals.looks_around, problem=vitals.discovery_problem, strangers=vitals.strangers_seen
            ),
            *(findings.seed(str(place), answer) for place, answer in zip(self._config.seeds, seen, strict=True)),
            findings.models(problem=vitals.models_problem),
            *findings.data_plane(stuck_s=vitals.stuck_s, counters=vitals.data_plane),
        ]
        alive = [member for member in self._others() if member.status is Status.ALIVE]
        return ExaminationReport(
            findings=tuple(finding_report(finding) for finding in found),
            pid=os.getpid(),
            host=self._config.listen.host,
            port=self._config.listen.port,
            model_bytes=vitals.model_bytes,
            boards=tuple(member.endpoint.host for member in alive),
            interfaces=tuple(self._config.interfaces),
        )

    def _locked(self) -> Lock:
        lock = self._lock()
        if lock is None:
            raise Refused(
                "this daemon runs without a cluster token, on loopback only; write one with peerctl token new --file "
                "FILE and start peerd again with --token-file FILE"
            )
        return lock

    def _others(self) -> list[Member]:
        view = self._membership.view()
        return sorted((m for m in view.members.values() if m.peer != view.self_id), key=lambda member: member.peer)

    def _named(self, who: str) -> Member:
        """The board of that id, beginning of an id, or name."""
        view, others = self._membership.view(), self._others()
        me = view.members[view.self_id]
        exact = [member for member in others if who in (member.peer, member.name)]
        if not exact and who in (me.peer, me.name):
            # Before beginnings of ids: the name "a" is also how every sixteenth id begins.
            raise Refused(f"{who} is this board itself; run peerctl leave, or forget it from another board")
        begins = [member for member in others if len(who) >= _MIN_PREFIX and member.peer.startswith(who.lower())]
        matching = exact or begins
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise Refused(f"{who!r} fits {_names(matching)}; give more of the id")
        known = f"known are {_names(others)}" if others else "this board knows no other"
        raise Refused(f"no board {who[:80]!r}; {known}")

    def _report(self, forgotten: Collection[Member] = ()) -> RotationReport:
        lock = self._lock()
        told = [member for member in self._others() if member.status in _HERE]
        return RotationReport(
            generation=lock.generation if lock else 0,
            told=len(told),
            forgotten=tuple(member.peer for member in forgotten),
        )

    async def _seed(self, place: HostPort, view: View) -> Answer:
        """Whether a seed became a member, and if not, how far one gets there."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_SEED_PATIENCE_S):
                found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError):
            return Answer.UNKNOWN_NAME
        hosts = {place.host, *(str(address[0]) for *_, address in found)}
        there = [m for m in view.members.values() if m.status in _HERE and m.endpoint.port == place.port]
        if {_normal(member.endpoint.host) for member in there} & {_normal(host) for host in hosts}:
            return Answer.MEMBER
        try:
            async with asyncio.timeout(_SEED_PATIENCE_S):
                _, writer = await asyncio.open_connection(place.host, place.port)
        except ConnectionRefusedError:
            return Answer.CLOSED
        except (OSError, TimeoutError):
            return Answer.UNREACHABLE
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return Answer.PERHAPS if [m for m in there if m.peer != view.self_id] else Answer.SILENT


def _token_of(text: str) -> bytes:
    try:
        return parse_token(text)
    except ConfigError as problem:
        raise Refused(str(problem)) from problem


def _names(members: Collection[Member]) -> str:
    listed = [f"{member.name} ({member.peer})" for member in list(members)[:_MAX_LISTED]]
    more = len(members) - len(listed)
    return ", ".join(listed) + (f" and {more} more" if more > 0 else "")


def _normal(host: str) -> str:
    """An address in its one spelling; a name as it is."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return host
