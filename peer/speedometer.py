"""How fast this board computes at present: a quiet measurement as the yardstick, and what requests take against it.

Boards with unequal shares must be comparable, and a block costs something even without a token; so the yardstick is two
measurements of one block (few tokens, many tokens), and a request tells only how many times longer than that it took:
a throttled, starved or hot board takes longer than it once did.
"""

import math
from dataclasses import dataclass
from typing import Protocol

_MEMORY = 0.6  # of how many times longer it took, per request
_HALF_LIFE_S = 15.0  # a board that is left out because it was slow gets another chance
_FASTEST = 0.5  # what a request may take against the yardstick, at least: measured while the machine was busy


class Stick(Protocol):
    """What a board takes when nothing disturbs it; `tokens` is the share that a speed is quoted for."""

    @property
    def tokens(self) -> int: ...

    def block_s(self, tokens: float) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """Seconds for one block: `fixed_s + tokens * token_s`; `tokens` is the share that a speed is quoted for."""

    fixed_s: float
    token_s: float
    tokens: int

    def block_s(self, tokens: float) -> float:
        return self.fixed_s + tokens * self.token_s


def yardstick(*, few: int, few_s: float, many: int, many_s: float) -> Yardstick:
    """From the time of one block with `few` and with `many` tokens, seconds."""
    token_s = max(many_s - few_s, 0.0) / (many - few) if many > few else 0.0
    return Yardstick(fixed_s=max(many_s - many * token_s, 1e-9), token_s=token_s, tokens=many)


class Speedometer:
    """The speed of one board, in content-token blocks per second of compute at the yardstick's share."""

    def __init__(self) -> None:
        self._longer = 1.0
        self._seen_at = 0.0
        self._stick: Stick | None = None

    def measured(self, stick: Stick) -> None:
        """A quiet measurement."""
        self._stick = stick

    def worked(self, *, tokens: int, block_s: float, now: float) -> None:
        """A request took `block_s` seconds of this board's time per block, with `tokens` tokens."""
        if self._stick is None:
            return
        self.took(block_s / self._stick.block_s(tokens), now)

    def took(self, times: float, now: float) -> None:
        """A request took so many `times` what the yardstick says."""
        self._longer = _MEMORY * self.longer(now) + (1 - _MEMORY) * max(_FASTEST, times)
        self._seen_at = now

    def longer(self, now: float) -> float:
        """How many times longer than the yardstick says this board takes; what was seen long ago counts little."""
        return 1.0 + (self._longer - 1.0) * math.exp2((self._seen_at - now) / _HALF_LIFE_S)

    def speed(self, now: float) -> float | None:
        """None before the first measurement."""
        if self._stick is None:
            return None
        return self._stick.tokens / (self._stick.block_s(self._stick.tokens) * self.longer(now))
