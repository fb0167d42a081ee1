"""`peerctl top`: what the ring does now, redrawn every second."""

import json
from pathlib import Path

import click

from peer.cli_output import Asked, bar, bold, count, printable, say_json, shared_options, table
from peer.records import to_json
from peer.reports import ActivityReport, BoardActivityReport

_PERIOD_S = 1.0
_HOT_C = 80.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--once", is_flag=True, help="Print one table and end.")
@click.option("--every", type=click.FloatRange(0.1, 3600), default=_PERIOD_S, metavar="SECONDS", help="Redraw  [1].")
@shared_options
def top(*, once: bool, every: float, as_json: bool, socket: Path | None, timeout: float | None) -> None:
    """What the ring does now: boards, shares, rates, latencies. `q` or Ctrl-C ends it.

    Requests are those that were asked of this board; percentiles, shares and means are of the last minute, rates of
    the last ten seconds. Bytes are what this board exchanges with each other one.

    \b
    Examples:
      peerctl top
      peerctl top --once
      peerctl top --once --json | jq '.boards[] | {name, share, compute_ms}'
    """
    with Asked(socket=socket, json=as_json, timeout_s=timeout).client() as client:

        def frame() -> str:
            report = client.watch.activity()
            return json.dumps(to_json(report), allow_nan=False) if as_json else drawn(report)

        if once and as_json:
            say_json(client.watch.activity())
        elif once:
            click.echo(frame())
        else:
            from peer.cli_screen import watch

            watch(frame, period_s=every)


def drawn(report: ActivityReport) -> str:
    """The whole screen."""
    latency = "no answer" if report.p50_ms is None else f"p50 {report.p50_ms:.1f} ms, p95 {report.p95_ms:.1f} ms"
    state = "ready" if report.not_ready is None else f"not ready: {report.not_ready}"
    lines = [
        bold(f"{printable(report.name)} ({report.id}), {printable(state)}"),
        f"{report.answers_per_s:.1f} answers/s, {latency} over {report.window_s:.0f} s; "
        f"{report.running} under way, {report.waiting} waiting",
        f"since the start {count(report.answered, 'answer')} ({report.degraded} degraded), {report.failed} failed; "
        f"{count(report.shards, 'shard')} computed",
    ]
    if report.hottest_c is not None or report.throttled:
        heat = "" if report.hottest_c is None else f"{report.hottest_c:.0f} °C"
        held = f"held back: {', '.join(report.throttled)}" if report.throttled else "not held back"
        lines.append(printable(f"{heat}{', ' if heat else ''}{held}"))
    heads = ("board", "status", "rtt ms", "speed", "share", "", "compute ms", "wait ms", "to it/s", "from it/s")
    rows = [_row(board) for board in report.boards]
    return "\n".join([*lines, "", table(heads, rows, right=frozenset(heads[2:5]) | frozenset(heads[6:]))])


def _row(board: BoardActivityReport) -> tuple[str, ...]:
    return (
        board.name,
        board.status,
        _number(board.rtt_ms, 2),
        "-" if board.speed is None else _amount(board.speed),
        f"{board.share:.0%}" if board.share else "-",
        bar(board.share) if board.share else "",
        _number(board.compute_ms, 1),
        _number(board.wait_ms, 1),
        f"{_amount(board.sent_bytes_per_s)}B",
        f"{_amount(board.received_bytes_per_s)}B",
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _amount(value: float) -> str:
    """`950`, `12.3 k`, `4.5 M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} "
