"""What the sockets of one purpose may hold: limits that stand before a byte of a message is looked at."""

from dataclasses import dataclass
from typing import Any

import zmq

_HIGH_WATER = 256  # messages per peer; a request has at most a few rounds in flight
_MAX_FRAME_BYTES = 64 * 1024 * 1024
TICK_S = 0.05  # how often a board in the middle of a request looks at its timers and links


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What sockets of one purpose may hold and which I/O thread works for them."""

    high_water: int
    max_frame_bytes: int = _MAX_FRAME_BYTES
    io_thread: int = 0
    patience_s: float | None = None  # of a receive; None: as long as it takes


TENSORS = Lane(high_water=_HIGH_WATER, patience_s=TICK_S)
# What comes through the door, or from members about members: one frame, which a message of theirs never fills.
WORDS = Lane(high_water=_HIGH_WATER, max_frame_bytes=64 * 1024)
# A short queue: pings that wait for a board to come back are worth nothing.
PINGS = Lane(high_water=8)
BULK = Lane(high_water=16, max_frame_bytes=1 << 20, io_thread=1, patience_s=0.0)


def limit(socket: "zmq.Socket[Any]", lane: Lane) -> None:
    """Set the lane's limits, which hold before any byte is parsed, and liveness below the application's own."""
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
