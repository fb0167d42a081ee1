"""From a view to the ring: an order that every board derives alike, and the epoch that names it. No state."""

import hashlib
from collections.abc import Sequence

from peer.protocol.types import Epoch, Member, PeerId, boot


def order(members: Sequence[Member]) -> tuple[PeerId, ...]:
    """Ring order: ascending id. Ids are random, so neighbours in the ring have nothing to do with names or cables."""
    return tuple(sorted(member.peer for member in members))


def epoch(members: Sequence[Member]) -> Epoch:
    """32-bit digest of who is in the ring and in which incarnation; a reboot or a change of members changes it."""
    digest = hashlib.blake2s(digest_size=4)
    for member in sorted(members, key=lambda member: member.peer):
        digest.update(bytes.fromhex(member.peer) + boot(member.incarnation).to_bytes(8, "big"))
    return Epoch(int.from_bytes(digest.digest(), "big"))


def chosen(members: Sequence[Member], self_id: PeerId, boards: int) -> tuple[PeerId, ...]:
    """`boards` of the ring for one request: this board and its successors, returned in ring order."""
    ring = order(members)
    at = ring.index(self_id)
    return tuple(sorted(ring[(at + step) % len(ring)] for step in range(boards)))


def successor(index: int, boards: int) -> int:
    """Index of the board after `index` among the boards of one request."""
    return (index + 1) % boards
