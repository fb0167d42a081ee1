"""Membership on asyncio: moves messages between sockets and the membership machine, and arms its one timer."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import assert_never

from peer.errors import RemoteProtocolError
from peer.protocol import wire
from peer.protocol.control_events import (
    Admit,
    AdoptToken,
    ControlEffect,
    ControlEvent,
    ControlReceived,
    KeepRevoked,
    Knock,
    Publish,
    Redial,
    SendControl,
    TimerDue,
)
from peer.protocol.membership import Membership
from peer.protocol.messages import ControlMessage
from peer.protocol.types import Lock, PeerId, View
from peer.zmq_transport import ControlSockets, Received

_log = logging.getLogger(__name__)


class ControlPlane:
    """Owned by the event loop. `on_view` hears every view that differs from the one before."""

    def __init__(
        self,
        *,
        sockets: ControlSockets,
        machine: Membership,
        on_view: Callable[[View], None],
        on_admit: Callable[[frozenset[bytes]], None],
        on_lock: Callable[[Lock], None],
        on_revoked: Callable[[tuple[PeerId, ...]], None],
        stuck_s: Callable[[], float],
    ) -> None:
        """`on_admit` opens the data socket to the same keys as the control socket.

        `on_lock` and `on_revoked` write down a new cluster token and who is shut out.
        `stuck_s` tells how long the worker has been in its step.
        """
        self.counters: Counter[str] = Counter()
        self._sockets = sockets
        self._machine = machine
        self._on_view = on_view
        self._on_admit = on_admit
        self._on_lock = on_lock
        self._on_revoked = on_revoked
        self._stuck_s = stuck_s
        self._moved = asyncio.Event()
        sockets.admit(machine.admitted())

    def admitted(self) -> frozenset[bytes]:
        return self._machine.admitted()

    def view(self) -> View:
        return self._machine.view()

    @property
    def machine_counters(self) -> Counter[str]:
        return self._machine.counters

    def set_speed(self, speed: float) -> None:
        self._machine.set_speed(speed)

    async def receive(self) -> None:
        """Run for ever: take messages of admitted boards in."""
        await self._receive(self._sockets.receive, door=False)

    async def receive_at_door(self) -> None:
        """Run for ever: take greetings in."""
        await self._receive(self._sockets.receive_at_door, door=True)

    async def _receive(self, receive: Callable[[], Awaitable[Received]], *, door: bool) -> None:
        while True:
            try:
                frames, sender, source = await receive()
                message = wire.decode(frames)
            except RemoteProtocolError as problem:
                self.counters["frames_refused"] += 1
                level = logging.WARNING if self.counters["frames_refused"] == 1 else logging.DEBUG
                _log.log(level, "a membership frame was refused: %s", problem)
                continue
            if isinstance(message, ControlMessage):
                known = None if door else sender
                self.handle(ControlReceived(message=message, sender=known, source=source, door=door))

    async def keep_time(self) -> None:
        """Run for ever: wake the machine when it asked for it."""
        while True:
            deadline = self._machine.deadline()
            self._moved.clear()
            try:
                async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    await self._moved.wait()
            except TimeoutError:
                self.handle(TimerDue(unread=self._sockets.unread()))

    def handle(self, event: ControlEvent) -> None:
        """Hand an event to the machine and perform its effects."""
        before = self._machine.deadline()
        self._machine.stuck_s = self._stuck_s()
        for effect in self._machine.handle(event, time.monotonic()):
            self._perform(effect)
        if self._machine.deadline() != before:
            self._moved.set()

    def _perform(self, effect: ControlEffect) -> None:
        match effect:
            case SendControl(to=to, message=message):
                place = to.endpoint
                frames = wire.encode(message)
                if not self._sockets.send(place.host, place.control_port, to.public_key, frames):
                    self.counters["messages_not_sent"] += 1
            case Knock(at=at, message=message):
                if not self._sockets.knock(at.host, at.port, wire.encode(message)):
                    self.counters["messages_not_sent"] += 1
            case Redial(member=member):
                self._sockets.redial(member.endpoint.host, member.endpoint.control_port)
            case Admit(keys=keys):
                self._sockets.admit(keys)
                self._on_admit(keys)
            case AdoptToken(lock=lock):
                self._on_lock(lock)
                self._sockets.change_lock(lock.token)
            case KeepRevoked(peers=peers):
                self._on_revoked(peers)
            case Publish(view=view):
                self._on_view(view)
            case _ as never:
                assert_never(never)
