"""A socket that the event loop reads."""

import asyncio
from collections import deque

import zmq

from peer.errors import BadFrame
from peer.zmq_transport.received import MAX_FRAMES, Received, sender_of

_AT_ONCE = 64  # messages between two turns of the event loop


class Inbox:
    """A PULL socket on the event loop: woken by its descriptor, then read until nothing is left.

    pyzmq's own asyncio sockets make several futures per message, which in a ring of twenty boards is most of the work.
    """

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self.socket = socket
        self._stirred = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_a_row = 0
        self._ahead: deque[list[zmq.Frame]] = deque()  # read by `waiting`, not handed out yet

    def waiting(self) -> int:
        """How many messages have come and were not received yet, counted up to a burst."""
        while len(self._ahead) < _AT_ONCE and not self.socket.closed:
            try:
                self._ahead.append(self.socket.recv_multipart(zmq.NOBLOCK, copy=False))
            except zmq.Again:
                break
        if self._ahead:
            self._stirred.set()  # the look took the descriptor's word that there is something
        return len(self._ahead)

    async def receive(self) -> Received | None:
        """The next message; None once the socket is closed. Raises BadFrame for one with too many frames."""
        while not self.socket.closed:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
                self._loop.add_reader(self.socket.FD, self._stirred.set)
            if self._in_a_row >= _AT_ONCE:
                self._in_a_row = 0
                await asyncio.sleep(0)  # a flood must not keep the loop from its timers
                continue
            # Before the look at the socket: its descriptor tells of each change once.
            self._stirred.clear()
            try:
                parts = self._ahead.popleft() if self._ahead else self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self._in_a_row = 0
                await self._stirred.wait()
                continue
            self._in_a_row += 1
            if len(parts) >= MAX_FRAMES:
                raise BadFrame("a message has more frames than any message of the protocol")
            # An IPv4 board that reaches a socket of both families is written as a mapped IPv6 address.
            source = str(parts[0].get("Peer-Address")).removeprefix("::ffff:")
            return Received([part.bytes for part in parts], sender_of(parts[0]), source)
        return None

    def close(self) -> None:
        """Whoever waits is woken."""
        if self._loop is not None and not self.socket.closed:
            self._loop.remove_reader(self.socket.FD)
        self.socket.close(linger=0)
        self._stirred.set()
