"""Bytes between boards over ZeroMQ: the only module that knows pyzmq.

Every board binds one PULL socket for membership and one for tensors, and pushes to each other board over sockets of
its own; so a large tensor never delays a ping. With a cluster token every socket speaks CURVE: the token yields one
key pair that all members share, a client without it is refused by ZAP, and a missing ZAP handler refuses everybody.
"""

import hashlib
from collections.abc import Iterator

import zmq
import zmq.asyncio
import zmq.auth.thread
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from peer.errors import BadFrame, Closed, TransportError
from peer.protocol.types import PeerId

_DOMAIN = b"tokenring"
_HIGH_WATER = 256  # messages per peer; a request has at most a few rounds in flight
_MAX_FRAME_BYTES = 64 * 1024 * 1024
_MAX_FRAMES = 4
TICK_S = 0.02  # how often a board in the middle of a request looks at its timers and links


class ClusterKeys:
    """The CURVE key pair that a cluster token stands for. Never logged, never sent."""

    __slots__ = ("public", "secret")

    def __init__(self, token: bytes) -> None:
        """`token` is the 32 random bytes of a cluster token."""
        seed = hashlib.blake2b(token, digest_size=32, person=b"tokenring-curve").digest()
        self.secret = z85.encode(seed)
        self.public = zmq.curve_public(self.secret)


class _OnlyMembers:
    """ZAP decision: the cluster's key and no other. Never raises: an exception would end the authenticator for good."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    def callback(self, _domain: str, key: bytes) -> bool:
        return key == self._public


class ZmqContext:
    """One ZeroMQ context for all sockets of a daemon, with the ZAP handler running before the first bind."""

    def __init__(self, keys: ClusterKeys | None) -> None:
        self.keys = keys
        self.sync = zmq.Context()
        self.sync.set(zmq.MAX_SOCKETS, 4096)
        self.sync.linger = 0
        self._zap: zmq.auth.thread.ThreadAuthenticator | None = None
        if keys is not None:
            self._zap = zmq.auth.thread.ThreadAuthenticator(self.sync)
            self._zap.start()
            self._zap.configure_curve_callback(domain=_DOMAIN.decode(), credentials_provider=_OnlyMembers(keys.public))

    def healthy(self) -> bool:
        """False when the ZAP handler has died: then nobody new can be admitted and the daemon must restart."""
        return self._zap is None or self._zap.is_alive()

    def bind(self, socket: "zmq.Socket[bytes]", host: str, port: int) -> None:
        """Bind a PULL socket to the fixed port. Raises TransportError with the remedy."""
        _bounded(socket, _HIGH_WATER)
        if self.keys is not None:
            socket.curve_server = True
            socket.curve_secretkey = self.keys.secret
            socket.zap_domain = _DOMAIN
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        try:
            socket.bind(f"tcp://{_bracketed(host)}:{port}")
        except zmq.ZMQError as problem:
            socket.close()
            raise TransportError(
                f"cannot listen on {host}:{port} ({problem.strerror}); another daemon may run there: choose --listen"
            ) from None

    def connect(self, socket: "zmq.Socket[bytes]", host: str, port: int, high_water: int = _HIGH_WATER) -> None:
        """Connect a PUSH socket; returns at once, the handshake goes on behind."""
        _bounded(socket, high_water)
        if self.keys is not None:
            socket.curve_serverkey = self.keys.public
            socket.curve_publickey = self.keys.public
            socket.curve_secretkey = self.keys.secret
        socket.connect(f"tcp://{_bracketed(host)}:{port}")

    def close(self) -> None:
        if self._zap is not None:
            self._zap.stop()
        self.sync.destroy(linger=0)


def _bracketed(host: str) -> str:
    if not host:
        return "*"
    return f"[{host}]" if ":" in host else host


def _bounded(socket: "zmq.Socket[bytes]", high_water: int) -> None:
    """Limits that hold before any byte is parsed, and liveness below the application's own."""
    socket.linger = 0
    socket.ipv6 = True
    socket.sndhwm = socket.rcvhwm = high_water
    socket.maxmsgsize = _MAX_FRAME_BYTES
    socket.handshake_ivl = 3000
    socket.heartbeat_ivl = 1000
    socket.heartbeat_timeout = 3000
    socket.heartbeat_ttl = 3000
    socket.reconnect_ivl = 100
    socket.reconnect_ivl_max = 2000
    socket.setsockopt(zmq.TCP_MAXRT, 5000)


def _receive(socket: "zmq.Socket[bytes]") -> list[bytes]:
    """One message, waiting as long as the socket does. Raises zmq.Again when none came, BadFrame for a long one."""
    first = socket.recv(copy=False)
    frames = [first.bytes]
    more = first.more
    while more:
        frame = socket.recv(copy=False)
        more = frame.more
        if len(frames) < _MAX_FRAMES:
            frames.append(frame.bytes)
    if len(frames) >= _MAX_FRAMES:
        raise BadFrame("a message has more frames than any message of the protocol")
    return frames


class ControlSockets:
    """Membership messages on asyncio: tiny, rare, to addresses that may not answer."""

    def __init__(self, context: ZmqContext, host: str, port: int) -> None:
        self._context = context
        pull = context.sync.socket(zmq.PULL)
        context.bind(pull, host, port)
        self._pull = zmq.asyncio.Socket.from_socket(pull)
        self._push: dict[tuple[str, int], zmq.Socket[bytes]] = {}

    async def receive(self) -> tuple[list[bytes], str]:
        """The next message and the address it came from. Raises BadFrame for one with too many frames."""
        while True:
            await self._pull.poll()
            try:
                parts = await self._pull.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                continue  # the message that was announced left with its connection
            if len(parts) >= _MAX_FRAMES:
                raise BadFrame("a message has more frames than any message of the protocol")
            # An IPv4 board that reaches a socket of both families is written as a mapped IPv6 address.
            source = str(parts[0].get("Peer-Address")).removeprefix("::ffff:")
            return [part.bytes for part in parts], source

    def send(self, host: str, port: int, frames: list[bytes]) -> bool:
        """Hand over a message; False when the board's queue is full (it will be tried again by the next timer)."""
        socket = self._push.get((host, port))
        if socket is None:
            socket = self._context.sync.socket(zmq.PUSH)
            try:
                # A short queue: pings that wait for a board to come back are worth nothing.
                self._context.connect(socket, host, port, high_water=8)
            except zmq.ZMQError:
                socket.close()
                return False
            self._push[host, port] = socket
        try:
            socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        for socket in self._push.values():
            socket.close(linger=100)
        self._pull.close()


class DataSockets:
    """Tensor messages for one thread that owns these sockets: blocking poll, no event loop between wire and compute."""

    def __init__(self, context: ZmqContext, host: str, port: int) -> None:
        self._context = context
        self._pull = context.sync.socket(zmq.PULL)
        context.bind(self._pull, host, port)
        self._pull.rcvtimeo = round(TICK_S * 1000)
        self._push: dict[PeerId, zmq.Socket[bytes]] = {}
        self._where: dict[PeerId, tuple[str, int]] = {}
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

    def connect(self, peer: PeerId, host: str, port: int) -> None:
        """Make the link to a board, or move it to another address; idempotent."""
        if self._where.get(peer) == (host, port):
            return
        self.disconnect(peer)
        socket = self._context.sync.socket(zmq.PUSH)
        events = zmq.Event.DISCONNECTED | zmq.Event.HANDSHAKE_FAILED_AUTH
        monitor = socket.get_monitor_socket(events)
        self._context.connect(socket, host, port)
        self._monitors[monitor] = peer
        self._poller.register(monitor, zmq.POLLIN)
        self._push[peer], self._where[peer] = socket, (host, port)

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

    def wait(self, timeout_s: float | None) -> None:
        """Until a message, a broken link or a wake-up is there, or the time is over: for a board that stands by."""
        timeout_ms = None if timeout_s is None else max(0, round(timeout_s * 1000 + 0.5))
        self._poller.poll(timeout_ms)

    def receive(self) -> list[bytes] | None:
        """The next message, or None after TICK_S without one: for a board in the middle of a request.

        One blocking call per message: a poll beside every receive costs a round a third of its time. A wake-up ends
        it as a message without a byte. Raises BadFrame for a message with too many frames.
        """
        try:
            return _receive(self._pull)
        except zmq.Again:
            return None

    def broken(self) -> Iterator[PeerId]:
        """Boards whose link broke since the last call. The link is made anew, without what waited in the old one."""
        for monitor, peer in list(self._monitors.items()):
            try:
                parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                continue
            host, port = self._where[peer]
            self.disconnect(peer)
            self.connect(peer, host, port)
            yield peer

    def close(self) -> None:
        for peer in list(self._push):
            self.disconnect(peer)
        for socket in (self._pull, self._wake):
            socket.close(linger=0)
