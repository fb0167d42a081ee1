"""Membership on asyncio: moves messages between sockets and the membership machine, and arms its one timer."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import assert_never

from peer.errors import RemoteProtocolError
from peer.protocol import wire
from peer.protocol.membership import (
    ControlEvent,
    ControlReceived,
    LeaveRequested,
    LinkBroke,
    Membership,
    Publish,
    SendControl,
    TimerDue,
)
from peer.protocol.messages import Goodbye, Hello, Ping, Pong, Stranger
from peer.protocol.types import PeerId, View
from peer.zmq_transport import ControlSockets

_log = logging.getLogger(__name__)
_CONTROL = (Hello, Ping, Pong, Goodbye, Stranger)


class ControlPlane:
    """Owned by the event loop. `on_view` hears every view that differs from the one before."""

    def __init__(self, *, sockets: ControlSockets, machine: Membership, on_view: Callable[[View], None]) -> None:
        self.counters: Counter[str] = Counter()
        self._sockets = sockets
        self._machine = machine
        self._on_view = on_view
        self._moved = asyncio.Event()

    def view(self) -> View:
        return self._machine.view()

    def set_speed(self, speed: float) -> None:
        self._machine.set_speed(speed)

    def link_broke(self, peer: PeerId) -> None:
        """The data plane lost a board."""
        self._handle(LinkBroke(peer=peer))

    def leave(self) -> None:
        """Say goodbye to everybody."""
        self._handle(LeaveRequested())

    async def receive(self) -> None:
        """Run for ever: take messages in."""
        while True:
            try:
                frames, source = await self._sockets.receive()
                message = wire.decode(frames)
            except RemoteProtocolError as problem:
                self.counters["frames_refused"] += 1
                level = logging.WARNING if self.counters["frames_refused"] == 1 else logging.DEBUG
                _log.log(level, "a membership frame was refused: %s", problem)
                continue
            if isinstance(message, _CONTROL):
                self._handle(ControlReceived(message=message, source=source))

    async def keep_time(self) -> None:
        """Run for ever: wake the machine when it asked for it."""
        while True:
            deadline = self._machine.deadline()
            self._moved.clear()
            try:
                async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    await self._moved.wait()
            except TimeoutError:
                self._handle(TimerDue())

    def _handle(self, event: ControlEvent) -> None:
        before = self._machine.deadline()
        for effect in self._machine.handle(event, time.monotonic()):
            match effect:
                case SendControl(to=to, message=message):
                    if not self._sockets.send(to.host, to.port, wire.encode(message)):
                        self.counters["messages_not_sent"] += 1
                case Publish(view=view):
                    self._on_view(view)
                case _ as never:
                    assert_never(never)
        if self._machine.deadline() != before:
            self._moved.set()
