"""What an attacker on the LAN runs: `python -m tests.helpers.stranger KIND HOST PORT ...`; prints how far it came."""

import os
import sys
import time

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from peer.protocol import wire
from peer.protocol.messages import Goodbye, Hello
from peer.protocol.types import Endpoint, Incarnation, PeerId, peer_id
from peer.zmq_transport import KeyPair, door_keys, new_key_pair

PATIENCE_S = 3.0
ENOUGH = 3  # refused so often: it will not be let in the next time either
_REFUSALS = (
    zmq.EVENT_DISCONNECTED,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
)


def push(context: "zmq.Context[zmq.Socket[bytes]]", host: str, port: int, server: bytes, own: KeyPair | None) -> str:
    """Connect and send one message; whether the port was reached, and how the handshake ended."""
    socket = context.socket(zmq.PUSH)
    if own is not None:
        socket.curve_serverkey = z85.encode(server)
        socket.curve_publickey = z85.encode(own.public)
        socket.curve_secretkey = z85.encode(own.secret)
    monitor = socket.get_monitor_socket(zmq.EVENT_ALL)
    socket.connect(f"tcp://{host}:{port}")
    socket.send(b"\x92\x01\x02")
    until = time.monotonic() + PATIENCE_S
    reached = refusals = 0
    while time.monotonic() < until and refusals < ENOUGH:
        if monitor.poll(100):
            event = parse_monitor_message(monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return "handshake succeeded"
            reached += event == zmq.EVENT_CONNECTED
            refusals += event in _REFUSALS
    return "connected, handshake failed" if reached else "not connected"


def impostor(context: "zmq.Context[zmq.Socket[bytes]]", host: str, port: int, *, token: bytes, goodbye: Goodbye) -> str:
    """Join honestly with the token, then say Goodbye in the victim's name under one's own key."""
    own = new_key_pair()
    pull_door, pull_control = context.socket(zmq.PULL), context.socket(zmq.PULL)
    for socket, keys, at in ((pull_door, door_keys(token), 9100), (pull_control, own, 9101)):
        socket.curve_server = True
        socket.curve_secretkey = z85.encode(keys.secret)
        socket.bind(f"tcp://*:{at}")
    door = context.socket(zmq.PUSH)
    keys = door_keys(token)
    door.curve_serverkey = door.curve_publickey = z85.encode(keys.public)
    door.curve_secretkey = z85.encode(keys.secret)
    door.connect(f"tcp://{host}:{port}")
    hello = Hello(
        sender=peer_id(own.public),
        public_key=own.public,
        incarnation=Incarnation(1 << 16),
        name="impostor",
        endpoint=Endpoint(host="", port=9100),
        models=(),
        answer=False,
    )
    door.send_multipart(wire.encode(hello))
    answer = wire.decode([pull_door.recv()])
    assert isinstance(answer, Hello)
    control = context.socket(zmq.PUSH)
    control.curve_serverkey = z85.encode(answer.public_key)
    control.curve_publickey, control.curve_secretkey = z85.encode(own.public), z85.encode(own.secret)
    control.connect(f"tcp://{host}:{port + 1}")
    for _ in range(5):
        control.send_multipart(wire.encode(goodbye))
    control.send_multipart(wire.encode(Goodbye(sender=hello.sender, incarnation=hello.incarnation)))
    time.sleep(1.0)
    return "sent"


def main() -> None:
    kind, host, port, *rest = sys.argv[1:]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    if kind == "plain":
        print(push(context, host, int(port), b"", None))
    elif kind == "keys":
        server, public, secret = (bytes.fromhex(text) for text in rest)
        print(push(context, host, int(port), server, KeyPair(public=public, secret=secret)))
    else:
        token, victim, incarnation = rest
        goodbye = Goodbye(sender=PeerId(victim), incarnation=Incarnation(int(incarnation)))
        print(impostor(context, host, int(port), token=bytes.fromhex(token), goodbye=goodbye))
    sys.stdout.flush()
    os._exit(0)  # an attacker does not tidy up its sockets


if __name__ == "__main__":
    main()
