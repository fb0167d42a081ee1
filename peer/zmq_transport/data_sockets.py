"""The sockets of a plane, which one thread owns: tensors, or parts of models."""

from collections.abc import Iterator

import zmq
from zmq.utils.monitor import parse_monitor_message

from peer.errors import Closed
from peer.protocol.types import PeerId
from peer.zmq_transport.context import MEMBERS, ZmqContext
from peer.zmq_transport.lane import TENSORS, Lane
from peer.zmq_transport.received import Received, receive


class DataSockets:
    """Messages for one thread that owns these sockets: blocking poll, no event loop between wire and compute.

    On the lane TENSORS or BULK; `host` and `port` are this board's own.
    """

    def __init__(self, context: ZmqContext, host: str, port: int, lane: Lane = TENSORS) -> None:
        self._context = context
        self._lane = lane
        self._pull = context.sync.socket(zmq.PULL)
        context.bind(self._pull, host, port, keys=context.board, domain=MEMBERS, lane=lane)
        self._pull.rcvtimeo = -1 if lane.patience_s is None else round(lane.patience_s * 1000)
        self._push: dict[PeerId, zmq.Socket[bytes]] = {}
        self._where: dict[PeerId, tuple[str, int, bytes]] = {}
        self._monitors: dict[zmq.Socket[bytes], PeerId] = {}
        self._poller = zmq.Poller()
        self._poller.register(self._pull, zmq.POLLIN)
        self._pull.bind(f"inproc://wake-{id(self)}")
        self._wake = context.sync.socket(zmq.PUSH)
        self._wake.connect(f"inproc://wake-{id(self)}")

    def wake(self) -> None:
        """End the owner's poll; called by the one thread that gives it work."""
        try:
            self._wake.send(b"", zmq.NOBLOCK)
        except zmq.Again:
            return  # a wake-up is already pending
        except zmq.ZMQError as problem:
            raise Closed("the data plane is closed") from problem

    def connect(self, peer: PeerId, host: str, port: int, server: bytes) -> None:
        """Make the link to a board of that public key, or move it to another address; idempotent."""
        if self._where.get(peer) == (host, port, server):
            return
        self.disconnect(peer)
        socket = self._context.sync.socket(zmq.PUSH)
        events = zmq.Event.DISCONNECTED | zmq.Event.HANDSHAKE_FAILED_AUTH
        monitor = socket.get_monitor_socket(events)
        self._context.connect(socket, host, port, own=self._context.board, server=server, lane=self._lane)
        self._monitors[monitor] = peer
        self._poller.register(monitor, zmq.POLLIN)
        self._push[peer], self._where[peer] = socket, (host, port, server)

    def disconnect(self, peer: PeerId) -> None:
        """Drop the link and whatever waits in it."""
        socket = self._push.pop(peer, None)
        if socket is None:
            return
        self._where.pop(peer)
        for monitor in [m for m, owner in self._monitors.items() if owner == peer]:
            self._poller.unregister(monitor)
            del self._monitors[monitor]
        socket.disable_monitor()
        socket.close(linger=0)

    def send(self, peer: PeerId, frames: list[bytes]) -> bool:
        """Hand over a message; False when there is no link or its queue is full. Never waits, never loses silently."""
        socket = self._push.get(peer)
        if socket is None:
            return False
        try:
            if len(frames) == 1:
                socket.send(frames[0], zmq.NOBLOCK)
            else:
                socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def wait(self, timeout_s: float | None) -> bool:
        """Until a message, a broken link or a wake-up is there, or the time is over: for a board that stands by.

        Whether anything is there.
        """
        timeout_ms = None if timeout_s is None else max(0, round(timeout_s * 1000 + 0.5))
        return bool(self._poller.poll(timeout_ms))

    def receive(self) -> Received | None:
        """The next message, or None when the lane's patience (tensors: TICK_S) ends without one.

        One blocking call per message: a poll beside every receive costs a round a third of its time. A wake-up ends
        it as a message without a byte. Raises BadFrame for a message with too many frames.
        """
        try:
            return receive(self._pull)
        except zmq.Again:
            return None

    def broken(self) -> Iterator[PeerId]:
        """Boards whose link broke since the last call. The link is made anew, without what waited in the old one."""
        # One look at all of them: to ask each in turn costs a slow board more than the rest of a round's bookkeeping.
        for monitor, _ in self._poller.poll(0):
            peer = self._monitors.get(monitor)
            if peer is None:
                continue
            parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))
            host, port, server = self._where[peer]
            self.disconnect(peer)
            self.connect(peer, host, port, server)
            yield peer

    def close(self) -> None:
        for peer in list(self._push):
            self.disconnect(peer)
        for socket in (self._pull, self._wake):
            socket.close(linger=0)
