"""`peerctl trace`: one request over all its boards, drawn in the terminal or written for a trace viewer."""

import json
import shutil
from pathlib import Path

import click

from peer.cli_output import Asked, bold, coloured, count, printable, say_json, shared_options, table
from peer.errors import Refused
from peer.reports import TraceReport
from peer.trace_rounds import pieces, rounds
from peer.waterfall import LEGEND, bar, chrome, last_moment, phases_of

_NARROWEST = 40
_PHASES = ("queued", "prepare", "encode", "compute", "decode", "wait", "network", "head")
_COLOURS = {"c": "green", "e": "yellow", "d": "yellow", "~": "red", ".": "bright_black", "p": "blue", "h": "blue"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("request_id", metavar="[REQUEST]", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a trace file for Perfetto or Chrome.")
@click.option("--rounds", "show_rounds", is_flag=True, help="A row for each round of each board as well.")
@shared_options
def trace(
    *,
    request_id: str | None,
    output: Path | None,
    show_rounds: bool,
    as_json: bool,
    socket: Path | None,
    timeout: float | None,
) -> None:
    """Where the time of one request went, on every board that took part.

    REQUEST is what peerctl infer --json calls request; without it, the last one that this board took part in.
    Every board remembers its last 64. Clocks are put on this board's by round trips: each row says how far it may
    be wrong. A file for -o opens in ui.perfetto.dev or chrome://tracing.

    \b
    Examples:
      peerctl trace
      peerctl trace --rounds
      peerctl trace 81f0a3c2d4e5b697 -o request.json
      peerctl trace --json | jq '.boards[] | {name, missing, clock_error_ms}'
    """
    with Asked(socket=socket, json=as_json, timeout_s=timeout).client() as client:
        report = client.watch.trace(request_id)
    if output is not None:
        _write(report, output)
    if as_json:
        say_json(report)
    elif output is None:
        click.echo(drawn(report, columns=shutil.get_terminal_size().columns))
        if show_rounds:
            click.echo(_rounds(report))


def _write(report: TraceReport, output: Path) -> None:
    try:
        output.write_text(json.dumps(chrome(report), allow_nan=False) + "\n", encoding="utf-8")
    except OSError as problem:
        raise Refused(f"cannot write {output}: {problem.strerror}; name another file with -o") from problem
    click.echo(f"peerctl: wrote {output}; open it in ui.perfetto.dev or chrome://tracing", err=True)


def drawn(report: TraceReport, *, columns: int) -> str:
    """The waterfall, and what each board spent on what."""
    end_ms = last_moment(report)
    how = f"{report.codec}, {report.exchange}" if report.mode == "sequence" else "undivided"
    title = f"request {report.request}: {report.model}, {how}, {count(len(report.boards), 'board')}, {end_ms:.1f} ms"
    lines = [bold(printable(title))]
    if report.attempts > 1:
        lines.append(f"the last of {report.attempts} attempts; a file written with -o shows all of them")
    name_width = max(len(printable(board.name)) for board in report.boards)
    width = max(_NARROWEST, columns - name_width - 3)
    rows = []
    for board in report.boards:
        name = printable(board.name).ljust(name_width)
        if board.missing:
            lines.append(f"{name} |{'no answer: nothing is known of what it did'.ljust(width)}|")
            continue
        cells = bar(pieces(report, board, report.attempt), from_ms=0.0, to_ms=end_ms or 1.0, width=width)
        lines.append(f"{name} |{coloured(cells, _COLOURS)}|")
        spent = phases_of(report, board, report.attempt)
        spent["compute"] = spent.get("compute", 0.0) + spent.pop("whole", 0.0)
        tokens = "all" if board.tokens is None else f"{board.tokens[0]}-{board.tokens[1] - 1}"
        rows.append(
            (board.name, tokens, *(f"{spent.get(phase, 0.0):.2f}" for phase in _PHASES), f"{board.clock_error_ms:.2f}")
        )
    heads = ("board", "tokens", *_PHASES, "clock ±")
    return "\n".join([*lines, LEGEND, "", table(heads, rows, right=frozenset(heads[1:])), "all in milliseconds"])


def _rounds(report: TraceReport) -> str:
    names = {board.id: board.name for board in report.boards}
    heads = ("round", "board", "at", "encode", "compute", "decode", "wait", "network")
    found = sorted(rounds(report, report.attempt), key=lambda each: each.block)
    rows = [
        (
            str(each.block),
            names[each.board],
            *(
                f"{ms:.2f}"
                for ms in (
                    each.start_ms,
                    each.encode_ms,
                    each.compute_ms,
                    each.decode_ms,
                    each.wait_ms,
                    each.network_ms,
                )
            ),
        )
        for each in found
    ]
    return "\n" + table(heads, rows, right=frozenset(heads) - {"board"})
