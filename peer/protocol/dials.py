"""Which addresses are greeted, and when: configured seeds nobody answers at, and members that fell silent."""

from collections.abc import Callable
from dataclasses import dataclass

from peer.protocol.control_events import Address
from peer.protocol.types import PeerId


@dataclass(slots=True)
class _Dial:
    next_at: float
    wait_s: float
    seed: bool
    peer: PeerId | None = None  # who answered here


class Dials:
    """Bounded: the seeds, and at most one more address for each member."""

    def __init__(self, *, seeds: tuple[Address, ...], first_s: float, last_s: float, now: float) -> None:
        self._first_s, self._last_s = first_s, last_s
        self._dials = {seed: _Dial(next_at=now, wait_s=first_s, seed=True) for seed in seeds}

    def __len__(self) -> int:
        return len(self._dials)

    def deadline(self, silent: Callable[[PeerId], bool]) -> float | None:
        """When the next greeting is due; `silent` tells of a member whether it has to be greeted."""
        return min((d.next_at for d in self._dials.values() if d.peer is None or silent(d.peer)), default=None)

    def due(self, silent: Callable[[PeerId], bool], now: float) -> list[Address]:
        """Addresses to greet now. The pause behind each doubles from `first_s` to `last_s`."""
        addresses = []
        for address, dial in self._dials.items():
            if (dial.peer is None or silent(dial.peer)) and now >= dial.next_at:
                addresses.append(address)
                dial.next_at = now + dial.wait_s
                dial.wait_s = min(2 * dial.wait_s, self._last_s)
        return addresses

    def answered(self, address: Address, peer: PeerId, now: float) -> None:
        """`peer` lives at `address`, and nowhere else."""
        self.released(peer, now, but=address)
        dial = self._dials.setdefault(address, _Dial(next_at=now, wait_s=self._first_s, seed=False))
        dial.peer, dial.wait_s = peer, self._first_s

    def released(self, peer: PeerId, now: float, but: Address | None = None) -> None:
        """`peer` is not to be greeted any more; the seeds it answered at are, for whoever comes up there."""
        for address in [a for a, dial in self._dials.items() if dial.peer == peer and a != but]:
            if self._dials[address].seed:
                self._dials[address] = _Dial(next_at=now + self._first_s, wait_s=self._first_s, seed=True)
            else:
                del self._dials[address]

    def mirrored(self, self_id: PeerId, port: int) -> None:
        """A greeting of our own came back: the one silent seed with our port is ourselves.

        Where several are silent it could be any of them. They all stay: greeting oneself costs next to nothing, and
        boards usually share one port number.
        """
        silent = [dial for address, dial in self._dials.items() if dial.peer is None and address.port == port]
        if len(silent) == 1:
            silent[0].peer = self_id
