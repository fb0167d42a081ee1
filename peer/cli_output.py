"""How `peerctl` prints: options every command shares, safe text, tables, bars, progress.

Data goes to stdout, the rest to stderr. Text from other boards is never trusted to be printable.
"""

import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from peer.control_client import ControlClient
from peer.paths import control_socket, control_sockets
from peer.records import to_json

DEFAULT_TIMEOUT_S = 30.0
_BAR_CELLS = 20
_C = TypeVar("_C", bound=Callable[..., Any])  # Any: click passes each option as its own keyword


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options that every command has."""

    socket: Path | None
    # None: the command's own default
    timeout_s: float | None
    json: bool = False

    def client(self, *, default_timeout_s: float = DEFAULT_TIMEOUT_S) -> ControlClient:
        """A connection to the daemon that the options and the environment name."""
        path = self.socket or control_socket(os.environ, uid=os.geteuid())
        return ControlClient(path, timeout_s=self.timeout_s or default_timeout_s)

    def sockets(self) -> tuple[Path, ...]:
        """The daemons that may be asked, the preferred one first: the one named by the options, and no other then."""
        return (self.socket,) if self.socket else control_sockets(os.environ, uid=os.geteuid())


def shared_options(command: _C) -> _C:
    """Add --json, --socket and --timeout; the command takes them as keywords `as_json`, `socket`, `timeout`."""
    for option in (
        click.option("--timeout", type=click.FloatRange(0.001, 86_400), metavar="SECONDS", help="Give up after  [30]."),
        click.option("--socket", type=click.Path(path_type=Path), help="Control socket of the daemon to ask."),
        click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys."),
    ):
        command = option(command)
    return command


def say_json(record: object) -> None:
    """One JSON value on one line of stdout."""
    click.echo(json.dumps(to_json(record), allow_nan=False))


def printable(text: str) -> str:
    """`text` without control characters, and without what this terminal's encoding cannot show."""
    clean = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return clean.encode(encoding, "backslashreplace").decode(encoding)


def bold(text: str) -> str:
    """Emphasis on a terminal that wants it; NO_COLOR (no-color.org) is honoured."""
    return text if _plain() else click.style(text, bold=True)


def coloured(text: str, colours: Mapping[str, str]) -> str:
    """`text` with some of its characters in colour, on a terminal that wants it."""
    if _plain():
        return text
    runs = itertools.groupby(text, key=colours.get)
    return "".join(click.style("".join(run), fg=colour) if colour else "".join(run) for colour, run in runs)


def _plain() -> bool:
    return bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()


def bar(share: float) -> str:
    """A small bar for a share from 0 to 1, padded to a fixed width."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    eighths = round(min(max(share, 0.0), 1.0) * _BAR_CELLS * 8)
    whole, part = divmod(eighths, 8)
    text = "█" * whole + (" ▏▎▍▌▋▊▉"[part] if part else "") if unicode else "#" * round(eighths / 8)
    return text.ljust(_BAR_CELLS)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[str] = frozenset()) -> str:
    """Aligned columns under `heads`; the columns named in `right` hold numbers and align to the right."""
    cells = [[printable(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(heads))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if head in right else cell.ljust(width)
            for cell, width, head in zip(row, widths, heads, strict=True)
        ).rstrip()

    return "\n".join([bold(line(cells[0])), *(line(row) for row in cells[1:])])


def count(number: int, noun: str) -> str:
    """`1 board`, `4 boards`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class Progress:
    """A line on a terminal's stderr that is redrawn in place; silent anywhere else."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._shown = sys.stderr.isatty() and total > 1

    def show(self, done: int, doing: str) -> None:
        """Draw `done` of the total and what is under way."""
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{bar(done / self._total)} {done}/{self._total}  {printable(doing)[:40]}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Wipe the line, before something else is printed."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
