"""What the data plane counts of its traffic and its shards; plain data that one thread writes and others copy."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from peer.protocol.types import PeerId, Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTotals:
    """Between this board and another one since the compute process began; bytes as the sockets move them."""

    sent_bytes: int = 0
    received_bytes: int = 0
    rounds: int = 0  # code messages that came from it


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTotals:
    """Shards that this board computed, for whoever asked, and where its time went."""

    shards: int = 0
    spent: Timing = field(default_factory=Timing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is under way: requests asked of this board that run or wait their turn, and shards it computes."""

    running: int = 0
    waiting: int = 0
    shards: int = 0


class Ledger:
    """Counts per peer. Peers that no view names any more are dropped, so that it stays as small as the ring."""

    def __init__(self) -> None:
        self.sent: Counter[PeerId] = Counter()
        self.received: Counter[PeerId] = Counter()
        self.rounds: Counter[PeerId] = Counter()
        self.shards = ShardTotals()

    def shard(self, timing: Timing) -> None:
        """One shard was computed to its end."""
        spent = self.shards.spent
        self.shards = ShardTotals(
            shards=self.shards.shards + 1,
            spent=Timing(
                prepare_us=spent.prepare_us + timing.prepare_us,
                compute_us=spent.compute_us + timing.compute_us,
                encode_us=spent.encode_us + timing.encode_us,
                decode_us=spent.decode_us + timing.decode_us,
                wait_us=spent.wait_us + timing.wait_us,
            ),
        )

    def keep(self, peers: Collection[PeerId]) -> None:
        """Forget all other peers."""
        for counts in (self.sent, self.received, self.rounds):
            for gone in counts.keys() - set(peers):
                del counts[gone]

    def links(self) -> Mapping[PeerId, LinkTotals]:
        """A copy; may be asked by another thread."""
        sent, received, rounds = dict(self.sent), dict(self.received), dict(self.rounds)
        return {
            peer: LinkTotals(
                sent_bytes=sent.get(peer, 0), received_bytes=received.get(peer, 0), rounds=rounds.get(peer, 0)
            )
            for peer in sorted(sent.keys() | received.keys() | rounds.keys())
        }
