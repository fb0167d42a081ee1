"""SWIM's failure detector: direct probes, indirect ones through others, and what is left without an answer.

A probe goes out every period to every member, or to a random few of a large ring. Without a Pong in time other members
are asked to try; without anybody's word by the end, the target is reported as silent. No member record, no verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from peer.protocol.types import PeerId


class Chance(Protocol):
    """The randomness this core is given; `random.Random` has it."""

    def sample(self, population: Sequence[PeerId], k: int) -> list[PeerId]: ...

    def uniform(self, a: float, b: float) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePace:
    """Seconds, before stretching."""

    period_s: float = 0.5
    answer_s: float = 0.4  # until others are asked
    verdict_s: float = 0.8  # until the target counts as silent
    urgent_s: float = 0.3  # the verdict on a member whose data link broke
    everybody: int = 8  # up to so many members all are probed every period
    fanout: int = 4  # of more, so many are drawn: others probe the rest, and suspicion is told to everybody
    helpers: int = 3  # members asked to try


@dataclass(slots=True, kw_only=True)
class _Probe:
    sequence: int
    sent_at: float
    ask_at: float
    verdict_at: float
    asked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What the clock demands now."""

    ping: tuple[tuple[PeerId, int], ...]  # target and sequence
    ask: tuple[tuple[PeerId, PeerId, int], ...]  # helper, target, sequence
    silent: tuple[PeerId, ...]


class Probing:
    """Outstanding probes of one board."""

    def __init__(self, *, pace: ProbePace, rng: Chance, now: float) -> None:
        self._pace = pace
        self._rng = rng
        self._sequence = 0
        self._round_at = now + pace.period_s
        self._probes: dict[PeerId, _Probe] = {}

    def deadline(self) -> float:
        """Local monotonic time of the next thing to do."""
        return min([self._round_at, *(p.verdict_at if p.asked else p.ask_at for p in self._probes.values())])

    def due(self, targets: Sequence[PeerId], helpers: Sequence[PeerId], *, stretch: float, now: float) -> Due:
        """Advance to `now`. `targets` may be probed, `helpers` may be asked; both in a stable order."""
        for gone in self._probes.keys() - set(targets):
            del self._probes[gone]
        silent = tuple(peer for peer, probe in self._probes.items() if now >= probe.verdict_at)
        for peer in silent:
            del self._probes[peer]
        asked: list[tuple[PeerId, PeerId, int]] = []
        again: list[tuple[PeerId, int]] = []
        for peer, probe in self._probes.items():
            if not probe.asked and now >= probe.ask_at:
                probe.asked = True
                able = [helper for helper in helpers if helper != peer]
                chosen = self._rng.sample(able, min(self._pace.helpers, len(able)))
                asked += [(helper, peer, probe.sequence) for helper in chosen]
                again.append((peer, probe.sequence))
        # The target itself is asked again as well: one lost packet is no silence.
        pings = again
        if now >= self._round_at:
            # A jitter keeps boards that started together from probing in step.
            self._round_at = now + self._pace.period_s * self._rng.uniform(0.9, 1.1) * stretch
            free = [peer for peer in targets if peer not in self._probes]
            count = len(free) if len(targets) <= self._pace.everybody else min(self._pace.fanout, len(free))
            for peer in self._rng.sample(free, count):
                pings.append((peer, self.start(peer, stretch=stretch, now=now)))
        return Due(ping=tuple(pings), ask=tuple(asked), silent=silent)

    def start(self, peer: PeerId, *, stretch: float, now: float, urgent: bool = False) -> int:
        """Begin a probe, or hurry the one under way; returns the sequence to ping with."""
        pace, known = self._pace, self._probes.get(peer)
        verdict_s = pace.urgent_s if urgent else pace.verdict_s
        ask_s = verdict_s / 2 if urgent else pace.answer_s
        if known is not None and urgent:
            known.verdict_at = min(known.verdict_at, now + verdict_s * stretch)
            known.ask_at = min(known.ask_at, now + ask_s * stretch)
            return known.sequence
        self._sequence = (self._sequence + 1) % (1 << 31)  # the upper half is for helping others
        self._probes[peer] = _Probe(
            sequence=self._sequence,
            sent_at=now,
            ask_at=now + ask_s * stretch,
            verdict_at=now + verdict_s * stretch,
        )
        return self._sequence

    def restart(self, now: float, *, stretch: float) -> None:
        """This board has slept: what it did not hear meanwhile says nothing about anybody else."""
        pace = self._pace
        for probe in self._probes.values():
            probe.ask_at = max(probe.ask_at, now + pace.answer_s * stretch)
            probe.verdict_at = max(probe.verdict_at, now + pace.verdict_s * stretch)

    def answered(self, peer: PeerId, sequence: int, now: float) -> float | None:
        """An answer of the probe under way: the time since it went out, in seconds; None for any other."""
        probe = self._probes.get(peer)
        if probe is None or probe.sequence != sequence:
            return None
        del self._probes[peer]
        return now - probe.sent_at

    def __len__(self) -> int:
        return len(self._probes)
