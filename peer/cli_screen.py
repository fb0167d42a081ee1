"""A screen that is redrawn in place until `q` or Ctrl-C; plain ANSI, so that it works over any ssh.

Anywhere else than on a terminal the frames are printed one after the other, without a control character.
"""

import contextlib
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator

import click

from peer.errors import NoDaemon

_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the alternate screen, without a cursor


def watch(frame: Callable[[], str], *, period_s: float) -> None:
    """Show `frame()` every `period_s` seconds until the person has seen enough. A daemon may go and come meanwhile."""
    on_screen = sys.stdout.isatty()
    with _keys() as pressed, _screen(on_screen), contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                _draw(frame(), on_screen=on_screen)
            except NoDaemon as problem:
                _say(f"{problem} (trying again)", on_screen=on_screen)
            if pressed(period_s) in ("q", "Q", "\x03", "\x1b"):  # any other key draws at once
                return


def _say(problem: str, *, on_screen: bool) -> None:
    """What keeps a frame from being there; never among the data of a script."""
    if on_screen:
        _draw(problem, on_screen=True)
    else:
        click.echo(f"peerctl: {problem}", err=True)


def _draw(text: str, *, on_screen: bool) -> None:
    if not on_screen:
        click.echo(text)
        return
    size = shutil.get_terminal_size()
    lines = [cut(line, size.columns) for line in text.splitlines()[: size.lines - 1]]
    # Line by line over what is there: a screen that is cleared first flickers.
    sys.stdout.write(_HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines) + _CLEAR_REST)
    sys.stdout.flush()


def cut(line: str, columns: int) -> str:
    """`line` in at most `columns` cells; ANSI sequences take none, and styles end where they are cut."""
    kept, cells, at = [], 0, 0
    while at < len(line) and cells < columns:
        if line[at] == "\x1b":
            end = line.find("m", at)
            end = len(line) - 1 if end < 0 else end
            kept.append(line[at : end + 1])
            at = end + 1
            continue
        kept.append(line[at])
        cells += 1
        at += 1
    return "".join(kept) + ("\x1b[0m" if "\x1b" in line and at < len(line) else "")


@contextlib.contextmanager
def _screen(on_screen: bool) -> Iterator[None]:
    if not on_screen:
        yield
        return
    sys.stdout.write(_ENTER)
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits for a key, at most so many seconds; where nobody types it only waits."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):

        def slept(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield slept
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return os.read(descriptor, 1).decode("ascii", "replace") if ready else ""

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
