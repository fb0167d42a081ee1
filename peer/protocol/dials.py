"""Which doors are greeted, and when: seeds and hints nobody answered at yet, and members that are gone.

A hint is never more than an address: from mDNS, from a member's list, from an earlier run. Bounded in number and pace.
"""

from dataclasses import dataclass

from peer.protocol.types import Address, PeerId

MAX_HINTS = 64
MIN_PORT = 1024  # a hint to a well-known port is somebody's attempt to make boards knock there
HINT_PATIENCE = 6  # greetings without an answer until a hint is dropped


@dataclass(slots=True, kw_only=True)
class _Dial:
    next_at: float
    wait_s: float
    seed: bool
    tries: int = 0
    peer: PeerId | None = None  # who answered here


class Dials:
    """Addresses to greet; the pause behind each doubles from `first_s` to `last_s`."""

    def __init__(self, *, own: Address, seeds: tuple[Address, ...], first_s: float, last_s: float, now: float) -> None:
        self._own = own
        self._first_s, self._last_s = first_s, last_s
        self._dials = {seed: _Dial(next_at=now, wait_s=first_s, seed=True) for seed in seeds if seed != own}

    def __len__(self) -> int:
        return len(self._dials)

    def hint(self, address: Address, now: float) -> bool:
        """Greet a new address soon; False when it is known, our own, suspicious, or there are too many already."""
        if address in self._dials or address == self._own or address.port < MIN_PORT or not address.host:
            return False
        if sum(not dial.seed and dial.peer is None for dial in self._dials.values()) >= MAX_HINTS:
            return False
        self._dials[address] = _Dial(next_at=now, wait_s=self._first_s, seed=False)
        return True

    def deadline(self) -> float | None:
        """When the next greeting is due."""
        return min((dial.next_at for dial in self._dials.values() if dial.peer is None), default=None)

    def due(self, now: float) -> list[Address]:
        """Doors to greet now."""
        addresses = []
        for address, dial in list(self._dials.items()):
            if dial.peer is not None or now < dial.next_at:
                continue
            if not dial.seed and dial.tries >= HINT_PATIENCE:
                del self._dials[address]
                continue
            addresses.append(address)
            dial.tries += 1
            dial.next_at = now + dial.wait_s
            dial.wait_s = min(2 * dial.wait_s, self._last_s)
        return addresses

    def answered(self, address: Address, peer: PeerId, now: float) -> None:
        """`peer` lives at `address`, and nowhere else."""
        self.released(peer, now, but=address)
        if address == self._own:
            return  # whatever it claims: nobody else lives here
        dial = self._dials.setdefault(address, _Dial(next_at=now, wait_s=self._first_s, seed=False))
        dial.peer, dial.wait_s, dial.tries = peer, self._first_s, 0

    def released(self, peer: PeerId, now: float, but: Address | None = None) -> None:
        """Nobody in particular lives where `peer` did: its seeds are greeted again, for whoever comes up there."""
        for address in [a for a, dial in self._dials.items() if dial.peer == peer and a != but]:
            if self._dials[address].seed:
                self._dials[address] = _Dial(next_at=now + self._first_s, wait_s=self._first_s, seed=True)
            else:
                del self._dials[address]

    def check(self) -> None:
        """Invariants, for tests."""
        assert self._own not in self._dials
        assert sum(not dial.seed and dial.peer is None for dial in self._dials.values()) <= MAX_HINTS
