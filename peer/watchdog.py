"""Reports the board's progress to systemd: ready, what it is doing, and signs of life that only progress can give.

A sign of life is sent when the event loop woke up in time and the compute process finished its steps, or at least
said something, within its budget. A board that hangs falls silent, and systemd starts it again. Before the board is
ready the same signs extend the start's time-out, so that waiting for a model may take days and hanging may not.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from peer.sd_notify import SdNotify

_log = logging.getLogger(__name__)
LAG_BUDGET_S = 1.0
# One step is one event of a request: twice the time that a whole request gets unless its asker says otherwise.
STEP_BUDGET_S = 60.0
# The compute process reports once a second, and every five while nothing happens.
SILENCE_BUDGET_S = 15.0
# Loading the default model, from a slow card.
START_BUDGET_S = 180.0
BEATS = 4  # signs of life in the time after which systemd gives up
_UNWATCHED_S = 30.0  # between two looks where nobody waits for signs of life


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a board is; ages in seconds."""

    boards: int  # alive, this one included
    model: str | None
    not_ready: str | None  # why it cannot serve, None when it can
    stopping: bool
    compute_up: bool
    step_s: float  # how long the compute has been in its present step
    silent_s: float  # since the compute process said something, or was started

    @property
    def text(self) -> str:
        """One line for a person."""
        ring = "alone in its ring" if self.boards <= 1 else f"ring of {self.boards} boards"
        return f"{ring}, {self.model or 'no model'}: {self.not_ready or 'ready'}"


def hindrance(progress: Progress, *, lag_s: float) -> str | None:
    """Why this board deserves no sign of life, None when it does."""
    if lag_s >= LAG_BUDGET_S:
        return f"the event loop was {lag_s:.1f} s late"
    if not progress.compute_up:
        late = progress.silent_s > START_BUDGET_S
        return f"the compute process has not started for {progress.silent_s:.0f} s" if late else None
    if progress.step_s > STEP_BUDGET_S:
        return f"the compute has been in one step for {progress.step_s:.0f} s"
    if progress.silent_s > SILENCE_BUDGET_S:
        return f"the compute process has said nothing for {progress.silent_s:.0f} s"
    return None


async def watch(progress: Callable[[], Progress], changed: asyncio.Event, systemd: SdNotify) -> None:
    """Run for ever: pass on what `progress` says, at once when `changed` is set and often enough for the watchdog."""
    beat_s = _UNWATCHED_S if systemd.watchdog_s is None else systemd.watchdog_s / BEATS
    report = Report(systemd, patience_s=BEATS * beat_s)
    due, lag_s = time.monotonic(), 0.0
    while True:
        changed.clear()
        now = time.monotonic()
        report.state(progress())
        if now >= due:
            report.beat(progress(), lag_s=lag_s)
            due = now + beat_s
        try:
            async with asyncio.timeout(due - now):
                await changed.wait()
        except TimeoutError:
            lag_s = max(0.0, time.monotonic() - due)


class Report:
    """What systemd was told, so that it hears each thing once."""

    def __init__(self, systemd: SdNotify, *, patience_s: float) -> None:
        """`patience_s`: for how long a sign of life counts before the board is ready."""
        self._systemd = systemd
        self._patience_s = patience_s
        self._text = ""
        self._ready = False
        self._stopping = False
        self._hindered = 0  # beats in a row

    def state(self, seen: Progress) -> None:
        """Tell what is new."""
        if seen.text != self._text:
            self._text = seen.text
            self._systemd.status(seen.text)
        if seen.stopping and not self._stopping:
            self._stopping = True
            self._systemd.stopping()
        elif seen.not_ready is None and not self._ready:
            # Once and for all: a board that has to start its compute process again is still the service it was.
            self._ready = True
            self._systemd.ready()

    def beat(self, seen: Progress, *, lag_s: float) -> None:
        """Give a sign of life, if the board deserves one."""
        problem = hindrance(seen, lag_s=lag_s)
        self._hindered = 0 if problem is None else self._hindered + 1
        if problem is not None:
            # One beat left out does no harm, and happens on a busy board; the second is worth a line before the end.
            if self._hindered == 2:
                _log.warning("no sign of life for systemd: %s", problem)
        elif self._ready:
            self._systemd.alive()
        else:
            self._systemd.extend_start(self._patience_s)
