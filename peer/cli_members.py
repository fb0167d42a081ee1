"""`peerctl members` and `peerctl ring`: who is here, and in which order."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from peer.cli_output import Asked, bold, count, printable, say_json, shared_options, table
from peer.records import to_json
from peer.reports import MemberReport

_WATCH_PERIOD_S = 1.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--watch", is_flag=True, help="Repeat every second until q or Ctrl-C; with --json one list per line.")
@shared_options
def members(*, watch: bool, as_json: bool, socket: Path | None, timeout: float | None) -> None:
    """Who is here, in which state, and why.

    \b
    Examples:
      peerctl members
      peerctl members --watch
      peerctl members --json | jq -r '.[] | select(.status != "alive") | .name'
    """
    asked = Asked(socket=socket, json=as_json, timeout_s=timeout)
    with asked.client() as client:

        def frame() -> str:
            boards = client.members()
            return json.dumps(to_json(boards), allow_nan=False) if as_json else _drawn(boards)

        if not watch:
            click.echo(frame())
            return
        from peer.cli_screen import watch as watched

        watched(frame, period_s=_WATCH_PERIOD_S)


def _drawn(boards: Sequence[MemberReport]) -> str:
    heads = ("id", "name", "endpoint", "status", "rtt ms", "for", "models", "reason")
    return table(heads, [_row(board) for board in boards], right=frozenset({"rtt ms", "for"}))


def _row(board: MemberReport) -> tuple[str, ...]:
    return (
        board.id,
        board.name,
        board.endpoint,
        board.status,
        "-" if board.rtt_ms is None else f"{board.rtt_ms:.2f}",
        duration(board.since_s),
        ", ".join(board.models) or "-",
        board.reason or "-",
    )


def duration(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `2 d`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@shared_options
def ring(*, as_json: bool, socket: Path | None, timeout: float | None) -> None:
    """The order of the boards, its epoch, and the tokens each holds.

    \b
    Examples:
      peerctl ring
      peerctl ring --json | jq '.order | length'
    """
    with Asked(socket=socket, json=as_json, timeout_s=timeout).client() as client:
        report = client.ring()
    if as_json:
        say_json(report)
        return
    model = f", tokens of {printable(report.model)}" if report.model else ""
    click.echo(bold(f"epoch {report.epoch}: {count(len(report.order), 'board')}{model}"))
    rows = []
    for place, peer in enumerate(report.order):
        start, stop = report.tokens.get(peer, (0, 0))
        rows.append(
            (
                str(place),
                peer,
                report.names.get(peer, "?") + (" (this board)" if peer == report.self_ else ""),
                f"{start}-{stop - 1}" if stop > start else "none",
            )
        )
    click.echo(table(("place", "id", "name", "tokens"), rows, right=frozenset({"place", "tokens"})))
