"""When a board that is S times slower than this machine's core would be through: the arithmetic, without a clock.

A busy period begins when a board gets something to do. Whatever it does from then on takes S times the processor time
that the whole process spent on it, one thing after the other. So the board must not be seen to be through (send a
message, listen for the next one) before

    due = beginning + S * (processor time spent since the beginning)

Waiting for this machine's cores costs no processor time: as long as what is due has not passed, it does not show. Where
it has passed, the emulated board is late, and by how much is kept: it tells whether a measurement is worth anything.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Lateness:
    """What the board showed the outside later than it should have, seconds."""

    shown: int = 0  # how often something was shown
    total_s: float = 0.0
    most_s: float = 0.0

    def note(self, late_s: float) -> None:
        self.shown += 1
        self.total_s += max(0.0, late_s)
        self.most_s = max(self.most_s, late_s)


class Ledger:
    """Account of one emulated core. Times are seconds of the machine's monotonic clock and of processor time."""

    def __init__(self, slower: float) -> None:
        """`slower`: S, how many times slower than this machine's core; at least 1."""
        if slower < 1:
            raise ValueError(f"a board cannot be emulated on a slower core: {slower} times slower")
        self.slower = slower
        self._began_at = 0.0
        self._spent_s = 0.0

    def begin(self, now: float, spent_s: float) -> None:
        """A busy period begins at `now`, when the process had spent `spent_s`."""
        self._began_at, self._spent_s = now, spent_s

    def exempt(self, spent_s: float) -> None:
        """So much of what is spent from here on is the emulation's own."""
        self._spent_s += spent_s

    def due(self, spent_s: float) -> float:
        """When the board would be through with what it did so far."""
        return self._began_at + self.slower * (spent_s - self._spent_s)

    def waited(self, *, asked_at: float, now: float, spent_before_s: float, spent_s: float) -> None:
        """The board listened from `asked_at` until something came, at `now`.

        Where it was there already, the busy period goes on: what was late is caught up with. Otherwise a new one begins
        when it came, or when the board is through with what it did before; what the process spent meanwhile was spent
        on receiving it.
        """
        meanwhile_s = spent_s - spent_before_s
        if now - asked_at - meanwhile_s > THERE_ALREADY_S:
            self.begin(max(now - meanwhile_s, self.due(spent_before_s)), spent_before_s)


THERE_ALREADY_S = 1e-4  # a receive that takes no longer than this did not wait
