"""Membership's sockets, which the event loop owns: the door and the control socket."""

import time
from collections.abc import Iterable

import zmq

from peer.errors import Closed, TransportError
from peer.zmq_transport.context import DOOR, MEMBERS, ZmqContext
from peer.zmq_transport.inbox import Inbox
from peer.zmq_transport.keys import KeyPair, door_keys
from peer.zmq_transport.lane import PINGS, WORDS
from peer.zmq_transport.received import Received

# A closed door's port is free again once ZeroMQ's own thread has seen to it, which takes milliseconds.
_REOPEN_S = 1.0


class ControlSockets:
    """Membership messages on asyncio: tiny, rare, to addresses that may not answer. Owns the door as well."""

    def __init__(self, context: ZmqContext, host: str, port: int, token: bytes | None) -> None:
        """Bind the door to `port` and the control socket to the one above."""
        self._context = context
        self._host, self._port = host, port
        self._push: dict[tuple[str, int, bytes], zmq.Socket[bytes]] = {}
        self._control = self._bind(port + 1, context.board, MEMBERS)
        self._door_keys: KeyPair | None = None
        self._refused_at_door = 0
        self._door = self._open_door(token)
        self._watch_door()

    def _bind(self, port: int, keys: KeyPair | None, domain: str) -> Inbox:
        pull = self._context.sync.socket(zmq.PULL)
        self._context.bind(pull, self._host, port, keys=keys, domain=domain, lane=WORDS)
        return Inbox(pull)

    def _open_door(self, token: bytes | None) -> Inbox:
        if token is not None and self._context.board is not None:
            self._door_keys = door_keys(token)
            self._context.at_door.replace([self._door_keys.public])
        return self._bind(self._port, self._door_keys, DOOR)

    def _watch_door(self) -> None:
        """Count handshakes that fail: ZeroMQ tells nobody else of them."""
        self._monitor = self._context.sync.socket(zmq.PAIR)
        # Without end: ZeroMQ's own thread would wait for room, and everything with it. `refused` empties it in time.
        self._monitor.rcvhwm = 0
        failures = zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
        place = f"inproc://door-{id(self._door)}"
        self._door.socket.monitor(place, failures | zmq.Event.HANDSHAKE_FAILED_AUTH)
        self._monitor.connect(place)

    def refused(self) -> tuple[int, int]:
        """Handshakes refused so far: at the door, and by the sockets of members. To be asked every second or so."""
        while self._monitor.poll(0):
            self._monitor.recv_multipart(zmq.NOBLOCK)
            self._refused_at_door += 1
        return self._refused_at_door, self._context.members.refused

    def admit(self, keys: Iterable[bytes]) -> None:
        """Public keys that open the control and the data socket from now on, and no others."""
        self._context.members.replace(keys)

    def change_lock(self, token: bytes) -> None:
        """A new cluster token: from now on the old one opens nothing."""
        self.refused()
        self._monitor.close(linger=0)
        self._door.close()
        for place in [place for place in self._push if self._door_keys and place[2] == self._door_keys.public]:
            self._push.pop(place).close(linger=0)
        until = time.monotonic() + _REOPEN_S
        while True:
            try:
                self._door = self._open_door(token)
            except TransportError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.001)
            else:
                self._watch_door()
                return

    async def receive_at_door(self) -> Received:
        """The next message of somebody who holds the cluster token. Raises BadFrame for one with too many frames."""
        while True:
            received = await self._door.receive()
            if received is not None:
                return received  # None: that door was closed, and there is another one now

    async def receive(self) -> Received:
        """The next message of an admitted board. Raises BadFrame for one with too many frames."""
        received = await self._control.receive()
        if received is None:
            raise Closed("the control socket is closed")
        return received

    def unread(self) -> int:
        """Messages of admitted boards that have come and were not received yet, counted up to a burst."""
        return self._control.waiting()

    def knock(self, host: str, port: int, frames: list[bytes]) -> bool:
        """Hand a message to a board's door; False when its queue is full."""
        keys = self._door_keys
        return self._hand_over(host, port, frames, own=keys, server=keys.public if keys else bytes(32))

    def send(self, host: str, port: int, server: bytes, frames: list[bytes]) -> bool:
        """Hand a message to an admitted board; False when its queue is full (the next timer tries again)."""
        return self._hand_over(host, port, frames, own=self._context.board, server=server)

    def _hand_over(self, host: str, port: int, frames: list[bytes], *, own: KeyPair | None, server: bytes) -> bool:
        socket = self._push.get((host, port, server))
        if socket is None:
            socket = self._context.sync.socket(zmq.PUSH)
            try:
                self._context.connect(socket, host, port, own=own, server=server, lane=PINGS)
            except zmq.ZMQError:
                socket.close()
                return False
            self._push[host, port, server] = socket
        try:
            socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            # A socket whose key was refused once never sends again, even after it is admitted: the next one is fresh.
            self._push.pop((host, port, server)).close(linger=0)
            return False
        return True

    def redial(self, host: str, port: int) -> None:
        """Drop the connections to an address and what waits in them: TCP's own back-off would be slower."""
        for place in [place for place in self._push if place[:2] == (host, port)]:
            self._push.pop(place).close(linger=0)

    def close(self) -> None:
        for socket in self._push.values():
            socket.close(linger=100)
        self._monitor.close(linger=0)
        self._door.close()
        self._control.close()
