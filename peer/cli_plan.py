"""`peerctl plan`: what a request would take on 1, 2, ... boards and with each codec, and which way would be taken."""

from pathlib import Path

import click

from peer.cli_output import Asked, bold, count, printable, say_json, shared_options, table
from peer.reports import MAX_REQUESTS, PlanQuery, PlanReport, PlanRowReport


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", help="Model to plan for  [the daemon's default].")
@click.option("--codec", help="How codes are packed on the way  [the model's].")
@click.option(
    "--within",
    type=click.FloatRange(-100, 100),
    metavar="POINTS",
    help="The fastest codec measured to lose no more percentage points (see peerctl models show).",
)
@click.option("--exchange", type=click.Choice(["ring", "direct"]), help="How codes travel  [direct].")
@click.option("--batch", type=click.IntRange(1, 64), default=1, help="Images in one request  [1].")
@click.option("--requests", type=click.IntRange(1, MAX_REQUESTS), default=1, help="Requests at once  [1].")
@shared_options
def plan(
    *,
    model: str | None,
    codec: str | None,
    within: float | None,
    exchange: str | None,
    batch: int,
    requests: int,
    as_json: bool,
    socket: Path | None,
    timeout: float | None,
) -> None:
    """Predict latency for 1 to all boards and each codec, and say which way a request would take and why.

    \b
    Examples:
      peerctl plan --model vit-cifar10
      peerctl plan --codec int8 --json
      peerctl plan --within 1          with the fastest codec that loses at most one point of accuracy
      peerctl plan --requests 8        how a folder of images would be run
    """
    if codec is not None and within is not None:
        raise click.UsageError("--codec names one codec, --within leaves the choice to the planner: give one")
    query = PlanQuery(model=model, codec=codec, within=within, exchange=exchange, batch=batch, requests=requests)
    with Asked(socket=socket, json=as_json, timeout_s=timeout).client() as client:
        report = client.plan(query)
    if as_json:
        say_json(report)
    else:
        _show(report)


def _show(report: PlanReport) -> None:
    click.echo(bold(printable(f"{report.model}: {_way(report.choice)}")))
    click.echo(f"  why: {printable(report.reason)}")
    if report.settings:
        click.echo("\npredicted ms (~: something in it was not measured yet)")
        click.echo(_latencies(report))
    heads = ("board", "alone ms", "slower", "link Mbit/s", "rtt ms", "")
    rows = [
        (
            board.name,
            _number(board.alone_ms),
            _number(board.slower),
            _number(board.link_mbit),
            _number(board.rtt_ms),
            board.reason or ("" if board.measured else "not measured yet: taken to be like the asked board"),
        )
        for board in report.boards
    ]
    if rows:
        click.echo()
        click.echo(table(heads, rows, right=frozenset(heads[1:-1])))


def _way(row: PlanRowReport) -> str:
    names = ", ".join(f"{name} {tokens}" for name, tokens in zip(row.names, row.tokens, strict=True))
    predicted = f"{_number(row.predicted_ms)} ms predicted" if row.predicted_ms else "nothing predicted yet"
    if row.mode == "single":
        return f"one board alone ({row.names[0]}), {predicted}"
    return f"{count(row.boards, 'board')} (tokens: {names}), codec {row.codec}, {row.exchange}, {predicted}"


def _latencies(report: PlanReport) -> str:
    """One row per number of boards, one column per codec."""
    codecs: list[str | None] = list(dict.fromkeys(row.codec for row in report.settings if row.codec is not None))
    cells: dict[tuple[int, str | None], PlanRowReport] = {}
    for row in report.settings:
        known = cells.get((row.boards, row.codec))
        if known is None or row.predicted_ms < known.predicted_ms:
            cells[row.boards, row.codec] = row
    rows = []
    for boards in sorted({boards for boards, _ in cells}):
        single = cells.get((boards, None))
        values = [single if boards == 1 else cells.get((boards, codec)) for codec in codecs or [None]]
        marks = [f"{'' if cell.measured else '~'}{_number(cell.predicted_ms)}" if cell else "-" for cell in values]
        rows.append((str(boards), *marks))
    heads = ("boards", *(codec or "" for codec in codecs or ["alone"]))
    return table(heads, rows, right=frozenset(heads))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
