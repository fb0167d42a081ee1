"""Bytes between boards over ZeroMQ: the only package that knows pyzmq.

Every board binds four PULL sockets and pushes to each other board over sockets of its own. The **door** speaks CURVE
with a key pair that the cluster token stands for: only who holds the token can say Hello there. The **control** socket
(membership) and the **data** socket (tensors, so that a large one never delays a ping) speak CURVE with the board's own
long-term key and let in only boards that were admitted; so does the **bulk** socket, through which model files travel
with an I/O thread of their own, so that encrypting them delays no tensor. A missing ZAP handler refuses everybody.
"""

from peer.zmq_transport.context import ZmqContext
from peer.zmq_transport.control_sockets import ControlSockets
from peer.zmq_transport.data_sockets import DataSockets
from peer.zmq_transport.keys import KeyPair, door_keys, key_pair_of, new_key_pair
from peer.zmq_transport.lane import BULK, TENSORS, TICK_S, Lane
from peer.zmq_transport.received import Received

__all__ = [
    "BULK",
    "TENSORS",
    "TICK_S",
    "ControlSockets",
    "DataSockets",
    "KeyPair",
    "Lane",
    "Received",
    "ZmqContext",
    "door_keys",
    "key_pair_of",
    "new_key_pair",
]
