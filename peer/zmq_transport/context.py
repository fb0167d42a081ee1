"""The context of all sockets of a daemon, and how each is bound or connected: CURVE, ZAP failing closed."""

from typing import Any

import zmq
import zmq.auth.thread
from zmq.utils import z85

from peer.errors import TransportError
from peer.zmq_transport.allow_list import AllowList
from peer.zmq_transport.keys import KeyPair
from peer.zmq_transport.lane import TENSORS, Lane, limit

DOOR = "tokenring-door"  # names of ZAP domains; sockets without one would be open to everybody
MEMBERS = "tokenring"
_IO_THREADS = 2  # the second one is for bulk sockets alone


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
            self._zap.configure_curve_callback(domain=DOOR, credentials_provider=self.at_door)
            self._zap.configure_curve_callback(domain=MEMBERS, credentials_provider=self.members)

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
        lane: Lane | None = None,
    ) -> None:
        """Bind a PULL socket to a fixed port. Raises TransportError with the remedy."""
        limit(socket, lane or TENSORS)
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
        lane: Lane | None = None,
    ) -> None:
        """Connect a PUSH socket to whoever holds the key `server`; returns at once, the handshake goes on behind."""
        limit(socket, lane or TENSORS)
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
