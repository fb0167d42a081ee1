"""Where the log lines of peerd and its compute process go, and how many of them.

INFO and above are for a person who may want to act; a board that is well writes a line when it starts and one when it
ends. What one peer can cause is limited, so that a broken or hostile board fills nobody's disk.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Mapping

from peer.journal import JournalHandler, PrefixFormatter, goes_to_journal

LINES, SPELL_S = 20, 60.0
_MAX_PEERS = 256


class LineBudget:
    """At most LINES records in SPELL_S for each key."""

    def __init__(self) -> None:
        self._spells: dict[str, tuple[float, int]] = {}  # when it began, how many records since

    def take(self, key: str, now: float) -> tuple[bool, int]:
        """Whether one more may pass, and how many did not in the spell that has just ended."""
        began, count = self._spells.get(key, (now, 0))
        left_out = 0
        if now - began >= SPELL_S:
            left_out = max(0, count - LINES)
            began, count = now, 0
        if key not in self._spells and len(self._spells) >= _MAX_PEERS:
            del self._spells[min(self._spells, key=lambda known: self._spells[known][0])]
        self._spells[key] = (began, count + 1)
        return count < LINES, left_out


class BudgetFilter(logging.Filter):
    """Lets through what the budget allows: by the board that a record is about, or by the module that writes it."""

    def __init__(self) -> None:
        super().__init__()
        self._budget = LineBudget()

    def filter(self, record: logging.LogRecord) -> bool:
        passes, left_out = self._budget.take(str(getattr(record, "peer", record.name)), time.monotonic())
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} lines like this were left out before)"
            record.args = None
        return passes


def set_up(environ: Mapping[str, str]) -> None:
    """Send this process's records to the journal where stderr goes there, to stderr otherwise."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if goes_to_journal(environ, sys.stderr):
        handler.setFormatter(PrefixFormatter())
        with contextlib.suppress(OSError):
            handler = JournalHandler(otherwise=handler)
    else:
        handler.setFormatter(logging.Formatter("peerd: %(levelname)s: %(message)s"))
    handler.addFilter(BudgetFilter())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
