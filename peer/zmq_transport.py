"""Bytes between boards over ZeroMQ: the only module that knows pyzmq.

Every board binds four PULL sockets and pushes to each other board over sockets of its own. The **door** speaks CURVE
with a key pair that the cluster token stands for: only who holds the token can say Hello there. The **control** socket
(membership) and the **data** socket (tensors, so that a large one never delays a ping) speak CURVE with the board's own
long-term key and let in only boards that were admitted; so does the **bulk** socket, through which model files travel
with an I/O thread of their own, so that encrypting them delays no tensor. A missing ZAP handler refuses everybody.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import zmq
import zmq.auth.thread
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from peer.errors import BadFrame, Closed, TransportError
from peer.protocol.types import PeerId, peer_id

_DOOR = "tokenring-door"
_MEMBERS = "tokenring"
_HIGH_WATER = 256  # messages per peer; a request has at most a few rounds in flight
_MAX_FRAME_BYTES = 64 * 1024 * 1024
_MAX_FRAMES = 4
_IO_THREADS = 2  # the second one is for bulk sockets alone
# A closed door's port is free again once ZeroMQ's own thread has seen to it, which takes milliseconds.
_REOPEN_S = 1.0
_AT_ONCE = 64  # messages between two turns of the event loop
TICK_S = 0.02  # how often a board in the middle of a request looks at its timers and links


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeyPair:
    """A CURVE key pair, 32 bytes each. Never logged; the secret is never sent."""

    public: bytes
    secret: bytes


def new_key_pair() -> KeyPair:
    """A fresh key pair from the system's random source."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public=z85.decode(public), secret=z85.decode(secret))


def key_pair_of(secret: bytes) -> KeyPair:
    """The pair that belongs to a secret of 32 bytes."""
    return KeyPair(public=z85.decode(zmq.curve_public(z85.encode(secret))), secret=secret)


def door_keys(token: bytes) -> KeyPair:
    """The pair that a cluster token of 32 bytes stands for; whoever holds the token can compute it."""
    return key_pair_of(hashlib.blake2b(token, digest_size=32, person=b"tokenring-curve").digest())


class AllowList:
    """ZAP decision: these public keys and no others. Never raises, as that would end the authenticator for good."""

    def __init__(self) -> None:
        self.refused = 0  # handshakes; whoever is refused tries again and again
        self._keys: frozenset[bytes] = frozenset()

    def replace(self, keys: Iterable[bytes]) -> None:
        """From now on exactly `keys`, 32 bytes each; safe while the authenticator's thread asks."""
        self._keys = frozenset(z85.encode(key) for key in keys)

    def callback(self, _domain: str, key: bytes) -> bool:
        try:
            known = key in self._keys
        except Exception:  # noqa: BLE001 - whatever escapes ends the authenticator's thread
            known = False
        self.refused += not known
        return known


class ZmqContext:
    """One ZeroMQ context for all sockets of a daemon, with the ZAP handler running before the first bind."""

    def __init__(self, board: KeyPair | None) -> None:
        """`board` is the board's own key pair; None means no encryption, which is for loopback only."""
        self.board = board
        self.at_door = AllowList()
        self.members = AllowList()
        self.sync = zmq.Context(_IO_THREADS)
        self.sync.set(zmq.MAX_SOCKETS, 8192)
        self.sync.linger = 0
        self._zap: zmq.auth.thread.ThreadAuthenticator | None = None
        if board is not None:
            self._zap = zmq.auth.thread.ThreadAuthenticator(self.sync)
            self._zap.start()
            self._zap.configure_curve_callback(domain=_DOOR, credentials_provider=self.at_door)
            self._zap.configure_curve_callback(domain=_MEMBERS, credentials_provider=self.members)

    def healthy(self) -> bool:
        """False when the ZAP handler has died: then nobody new can be admitted and the daemon must restart."""
        return self._zap is None or self._zap.is_alive()

    def bind(
        self,
        socket: "zmq.Socket[Any]",
        host: str,
        port: int,
        *,
        keys: KeyPair | None,
        domain: str,
        lane: "Lane | None" = None,
    ) -> None:
        """Bind a PULL socket to a fixed port. Raises TransportError with the remedy."""
        _bounded(socket, lane or TENSORS)
        if keys is not None:
            socket.curve_server = True
            socket.curve_secretkey = z85.encode(keys.secret)
            socket.zap_domain = domain.encode()
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        try:
            socket.bind(f"tcp://{_bracketed(host)}:{port}")
        except zmq.ZMQError as problem:
            socket.close()
            raise TransportError(
                f"cannot listen on {host}:{port} ({problem.strerror}); another daemon may run there: choose --listen"
            ) from None

    def connect(
        self,
        socket: "zmq.Socket[bytes]",
        host: str,
        port: int,
        *,
        own: KeyPair | None,
        server: bytes,
        lane: "Lane | None" = None,
    ) -> None:
        """Connect a PUSH socket to whoever holds the key `server`; returns at once, the handshake goes on behind."""
        _bounded(socket, lane or TENSORS)
        if own is not None:
            socket.curve_serverkey = z85.encode(server)
            socket.curve_publickey = z85.encode(own.public)
            socket.curve_secretkey = z85.encode(own.secret)
        socket.connect(f"tcp://{_bracketed(host)}:{port}")

    def close(self) -> None:
        if self._zap is not None:
            self._zap.stop()
        self.sync.destroy(linger=0)


def _bracketed(host: str) -> str:
    if not host:
        return "*"
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What sockets of one purpose may hold and which I/O thread works for them."""

    high_water: int
    max_frame_bytes: int = _MAX_FRAME_BYTES
    io_thread: int = 0
    patience_s: float | None = None  # of a receive; None: as long as it takes


TENSORS = Lane(high_water=_HIGH_WATER, patience_s=TICK_S)
# A short queue: pings that wait for a board to come back are worth nothing.
PINGS = Lane(high_water=8)
BULK = Lane(high_water=16, max_frame_bytes=1 << 20, io_thread=1, patience_s=0.0)


def _bounded(socket: "zmq.Socket[Any]", lane: Lane) -> None:
    """Limits that hold before any byte is parsed, and liveness below the application's own."""
    socket.linger = 0
    socket.ipv6 = True
    socket.affinity = 1 << lane.io_thread
    socket.sndhwm = socket.rcvhwm = lane.high_water
    socket.maxmsgsize = lane.max_frame_bytes
    socket.handshake_ivl = 3000
    # Only to clear away connections whose other end is gone: membership's own probes notice that far sooner, and in a
    # ring of twenty boards a heartbeat per second and connection was a third of the cost of standing by.
    socket.heartbeat_ivl = 5000
    socket.heartbeat_timeout = 15000
    socket.heartbeat_ttl = 15000
    socket.reconnect_ivl = 100
    socket.reconnect_ivl_max = 2000
    socket.setsockopt(zmq.TCP_MAXRT, 5000)


class Received(NamedTuple):
    """One message, who sent it and from where."""

    frames: list[bytes]
    sender: PeerId | None  # the board whose key opened the connection; None without encryption
    source: str  # its address


def _receive(socket: "zmq.Socket[bytes]") -> Received:
    """One message, waiting as long as the socket does. Raises zmq.Again when none came, BadFrame for a long one."""
    first = socket.recv(copy=False)
    if not first.more:
        return Received([first.bytes], _sender(first), "")
    frames = [first.bytes]
    while True:
        frame = socket.recv(copy=False)
        if len(frames) < _MAX_FRAMES:
            frames.append(frame.bytes)
        if not frame.more:
            break
    if len(frames) >= _MAX_FRAMES:
        raise BadFrame("a message has more frames than any message of the protocol")
    return Received(frames, _sender(first), "")


@lru_cache(maxsize=1024)
def _peer_of(user: str) -> PeerId:
    return peer_id(z85.decode(user.encode("ascii")))


def _sender(frame: zmq.Frame) -> PeerId | None:
    """The board behind the CURVE key of the connection: what a routing id or a field says would prove nothing."""
    try:
        user = frame.get("User-Id")
    except zmq.ZMQError:
        return None  # a connection without a security mechanism carries no user
    return _peer_of(str(user)) if user else None


class _Inbox:
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
            if len(parts) >= _MAX_FRAMES:
                raise BadFrame("a message has more frames than any message of the protocol")
            # An IPv4 board that reaches a socket of both families is written as a mapped IPv6 address.
            source = str(parts[0].get("Peer-Address")).removeprefix("::ffff:")
            return Received([part.bytes for part in parts], _sender(parts[0]), source)
        return None

    def close(self) -> None:
        """Whoever waits is woken."""
        if self._loop is not None and not self.socket.closed:
            self._loop.remove_reader(self.socket.FD)
        self.socket.close(linger=0)
        self._stirred.set()


class ControlSockets:
    """Membership messages on asyncio: tiny, rare, to addresses that may not answer. Owns the door as well."""

    def __init__(self, context: ZmqContext, host: str, port: int, token: bytes | None) -> None:
        """Bind the door to `port` and the control socket to the one above."""
        self._context = context
        self._host, self._port = host, port
        self._push: dict[tuple[str, int, bytes], zmq.Socket[bytes]] = {}
        self._control = self._bind(port + 1, context.board, _MEMBERS)
        self._door_keys: KeyPair | None = None
        self._refused_at_door = 0
        self._door = self._open_door(token)
        self._watch_door()

    def _bind(self, port: int, keys: KeyPair | None, domain: str) -> "_Inbox":
        pull = self._context.sync.socket(zmq.PULL)
        self._context.bind(pull, self._host, port, keys=keys, domain=domain)
        return _Inbox(pull)

    def _open_door(self, token: bytes | None) -> "_Inbox":
        if token is not None and self._context.board is not None:
            self._door_keys = door_keys(token)
            self._context.at_door.replace([self._door_keys.public])
        return self._bind(self._port, self._door_keys, _DOOR)

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


class DataSockets:
    """Messages for one thread that owns these sockets: blocking poll, no event loop between wire and compute.

    On the lane TENSORS or BULK; `host` and `port` are this board's own.
    """

    def __init__(self, context: ZmqContext, host: str, port: int, lane: Lane = TENSORS) -> None:
        self._context = context
        self._lane = lane
        self._pull = context.sync.socket(zmq.PULL)
        context.bind(self._pull, host, port, keys=context.board, domain=_MEMBERS, lane=lane)
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

    def wait(self, timeout_s: float | None) -> None:
        """Until a message, a broken link or a wake-up is there, or the time is over: for a board that stands by."""
        timeout_ms = None if timeout_s is None else max(0, round(timeout_s * 1000 + 0.5))
        self._poller.poll(timeout_ms)

    def receive(self) -> Received | None:
        """The next message, or None when the lane's patience (tensors: TICK_S) ends without one.

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
            host, port, server = self._where[peer]
            self.disconnect(peer)
            self.connect(peer, host, port, server)
            yield peer

    def close(self) -> None:
        for peer in list(self._push):
            self.disconnect(peer)
        for socket in (self._pull, self._wake):
            socket.close(linger=0)
