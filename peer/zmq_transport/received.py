"""One message as it came: its frames, and the board behind the key of its connection."""

from functools import lru_cache
from typing import NamedTuple

import zmq
from zmq.utils import z85

from peer.errors import BadFrame
from peer.protocol.types import PeerId, peer_id

MAX_FRAMES = 4


class Received(NamedTuple):
    """One message, who sent it and from where."""

    frames: list[bytes]
    sender: PeerId | None  # the board whose key opened the connection; None without encryption
    source: str  # its address


def receive(socket: "zmq.Socket[bytes]") -> Received:
    """One message, waiting as long as the socket does. Raises zmq.Again when none came, BadFrame for a long one."""
    first = socket.recv(copy=False)
    if not first.more:
        return Received([first.bytes], sender_of(first), "")
    frames = [first.bytes]
    while True:
        frame = socket.recv(copy=False)
        if len(frames) < MAX_FRAMES:
            frames.append(frame.bytes)
        if not frame.more:
            break
    if len(frames) >= MAX_FRAMES:
        raise BadFrame("a message has more frames than any message of the protocol")
    return Received(frames, sender_of(first), "")


@lru_cache(maxsize=1024)
def _peer_of(user: str) -> PeerId:
    return peer_id(z85.decode(user.encode("ascii")))


def sender_of(frame: zmq.Frame) -> PeerId | None:
    """The board behind the CURVE key of the connection: what a routing id or a field says would prove nothing."""
    try:
        user = frame.get("User-Id")
    except zmq.ZMQError:
        return None  # a connection without a security mechanism carries no user
    return _peer_of(str(user)) if user else None
