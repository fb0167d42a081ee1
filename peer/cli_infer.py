"""`peerctl infer`: classify images over the ring."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from peer.cli_asking import Asking
from peer.cli_inputs import gather, read_image
from peer.cli_output import (
    DEFAULT_TIMEOUT_S,
    Asked,
    Progress,
    bar,
    bold,
    count,
    printable,
    say_json,
    shared_options,
    table,
)
from peer.control_protocol import MAX_BLOBS, MAX_BODY_BYTES, MAX_INPUT_NAME
from peer.errors import BadInput, DeadlineExceeded, PeerError
from peer.records import to_json
from peer.reports import InferQuery, InferReport

# Longer than the daemon's own deadline, so that its better explained answer arrives first.
_DEADLINE_GRACE_S = 2.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", help="Model to use  [the daemon's default].")
@click.option("--boards", type=click.IntRange(1), help="Exactly this many boards  [all alive].")
@click.option("--shares", metavar="A,B,...", help="Tokens of the boards in proportion, in ring order  [by speed].")
@click.option("--codec", help="How codes are packed on the way (see peerctl models show)  [the model's].")
@click.option(
    "--exchange", type=click.Choice(["ring", "direct"]), help="How codes travel between the boards  [direct]."
)
@click.option(
    "--mode", type=click.Choice(["auto", "single", "sequence"]), default="auto", help="One board, or tokens split."
)
@click.option("--top", type=click.IntRange(1, 1000), default=5, help="Labels to show  [5].")
@click.option("--logits", is_flag=True, help="All raw outputs as well (with --json).")
@click.option("--deadline", type=click.FloatRange(0.001, 86_400), metavar="SECONDS", help="Fail when not done by then.")
@click.option(
    "--allow-degraded",
    is_flag=True,
    help="Accept a result without lost boards' tokens; so far the others always complete it.",
)
@click.option("--batch", type=click.IntRange(1, MAX_BLOBS), default=1, help="Images per request  [1].")
@click.option("--explain", is_flag=True, help="What the request cost each board, and why it ran so.")
@shared_options
@click.pass_context
def infer(
    ctx: click.Context,
    *,
    files: tuple[Path, ...],
    model: str | None,
    boards: int | None,
    shares: str | None,
    codec: str | None,
    exchange: str | None,
    mode: str,
    top: int,
    logits: bool,
    deadline: float | None,
    allow_degraded: bool,
    batch: int,
    explain: bool,
    as_json: bool,
    socket: Path | None,
    timeout: float | None,
) -> None:
    """Classify images over the ring. A folder means every image in it.

    A daemon that dies meanwhile is given ten seconds to come back; TOKENRING_OTHER_SOCKETS=PATH:... names others of
    this machine to ask instead.

    \b
    Examples:
      peerctl infer photo.jpg
      peerctl infer photo.jpg --boards 4 --codec int8 --explain
      peerctl infer photo.jpg --boards 3 --shares 4,1,1
      peerctl infer photos/ --json > results.jsonl
    """
    if mode == "single" and boards is not None and boards > 1:
        raise click.UsageError(f"--mode single is one board, --boards says {boards}", ctx)
    asked = Asked(socket=socket, json=as_json, timeout_s=timeout or (deadline and deadline + _DEADLINE_GRACE_S))
    query = InferQuery(
        inputs=(),
        model=model,
        boards=boards,
        shares=_weights(ctx, shares),
        codec=codec,
        exchange=exchange,
        mode=mode,
        top=top,
        logits=logits,
        deadline_s=deadline,
        allow_degraded=allow_degraded,
    )
    timeout_s = asked.timeout_s or DEFAULT_TIMEOUT_S
    with Asking(asked.sockets(), timeout_s=timeout_s, say=_say) as asking:
        ctx.exit(_Run(asking=asking, query=query, as_json=as_json, explain=explain).classify(files, batch))


def _say(line: str) -> None:
    click.echo(f"peerctl: {printable(line)}", err=True)


def _weights(ctx: click.Context, text: str | None) -> tuple[float, ...] | None:
    """`4,1,1` -> weights; positive numbers, one per board."""
    if text is None:
        return None
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = (0.0,)
    if not all(0 < weight < math.inf for weight in weights):
        raise click.UsageError(f"--shares takes positive numbers like 4,1,1, not {text!r}", ctx)
    return weights


class _Run:
    """One invocation: sends the files, prints what comes back, and remembers what failed."""

    def __init__(self, *, asking: Asking, query: InferQuery, as_json: bool, explain: bool) -> None:
        self._asking = asking
        self._query = query
        self._as_json = as_json
        self._explain = explain
        self._failures: list[PeerError] = []
        self._progress = Progress(0)

    def classify(self, named: tuple[Path, ...], batch: int) -> int:
        """All files named; returns the exit code, that of the first failure."""
        paths, failures = gather(named)
        self._progress = Progress(len(paths))
        for failure in failures:
            self._fail(failure)
        done = 0
        for group, images in self._groups(paths, batch):
            self._progress.show(done, group[0].name)
            self._send(group, images)
            done += len(group)
        self._progress.clear()
        if len(paths) + len(failures) > 1 and self._failures:
            click.echo(
                f"peerctl: {len(self._failures)} of {count(len(paths) + len(failures), 'input')} failed", err=True
            )
        return self._failures[0].exit_code if self._failures else 0

    def _groups(self, paths: list[Path], batch: int) -> Iterator[tuple[list[Path], list[bytes]]]:
        """Readable files by `batch`, or fewer where they would not fit into one request."""
        group: list[Path] = []
        images: list[bytes] = []
        for path in paths:
            try:
                data = read_image(path)
            except BadInput as exc:
                self._fail(exc)
                continue
            if group and (len(group) == batch or sum(map(len, images)) + len(data) > MAX_BODY_BYTES):
                yield group, images
                group, images = [], []
            group.append(path)
            images.append(data)
        if group:
            yield group, images

    def _send(self, group: list[Path], images: list[bytes]) -> None:
        names = tuple(path.name[:MAX_INPUT_NAME] for path in group)
        try:
            reports = self._asking.infer(replace(self._query, inputs=names), images)
        except BadInput as exc:
            if len(group) == 1:
                self._fail(BadInput(f"{group[0]}: {str(exc).removeprefix(f'{names[0]}: ')}"))
                return
            # One bad image spoils its batch: the others are sent again alone.
            for path, data in zip(group, images, strict=True):
                self._send([path], [data])
        except DeadlineExceeded as exc:
            for path in group:
                self._fail(DeadlineExceeded(f"{path}: {exc}"))
        else:
            self._progress.clear()
            for path, report in zip(group, reports, strict=True):
                self._show(replace(report, input=str(path)))

    def _fail(self, failure: PeerError) -> None:
        self._progress.clear()
        self._failures.append(failure)
        click.echo(f"peerctl: {printable(str(failure))}", err=True)

    def _show(self, report: InferReport) -> None:
        if self._as_json:
            say_json(_stable(report, logits=self._query.logits, explain=self._explain))
            return
        click.echo(bold(printable(report.input)))
        width = max((len(printable(label.label)) for label in report.top), default=0)
        for label in report.top:
            click.echo(f"  {printable(label.label):{width}}  {bar(label.probability)} {label.probability:6.1%}")
        click.echo(f"  {printable(summary(report))}")
        if self._explain and report.explain is not None:
            click.echo(f"  why: {printable(report.explain.reason)}\n{costs(report)}")


def _stable(report: InferReport, *, logits: bool, explain: bool) -> dict[str, object]:
    """The contract's keys; `logits` and `explain` only where they were asked for."""
    left_out = {key for key, asked_for in (("logits", logits), ("explain", explain)) if not asked_for}
    return {key: value for key, value in to_json(report).items() if key not in left_out}


def summary(report: InferReport) -> str:
    """One line: which boards shared the work, how long it took, what travelled."""
    predicted = "" if report.predicted_ms is None else f" (predicted {report.predicted_ms:.1f} ms)"
    took = f"{report.latency_ms:.1f} ms{predicted}"
    shares = ", ".join(f"{board.name} tokens {board.tokens[0]}-{board.tokens[1] - 1}" for board in report.boards)
    notes = f"; DEGRADED, without {', '.join(report.lost)}" if report.degraded else ""
    notes += f"; {report.attempts} attempts" if report.attempts > 1 else ""
    if report.mode == "single":
        return f"{count(len(report.boards), 'board')} ({shares}): {took}{notes}"
    travelled = f"{report.payload_bytes:,} bytes of codes, {report.wire_bytes:,} on the wire"
    return (
        f"{count(len(report.boards), 'board')} ({shares}): {took}; codec {report.codec}, {report.exchange}, "
        f"{count(report.rounds, 'round')}, {travelled}{notes}"
    )


def costs(report: InferReport) -> str:
    """The table of --explain: one row per board, milliseconds and bytes."""
    heads = ("board", "tokens", "prepare", "encode", "compute", "wait", "decode", "sent bytes")
    rows = [
        (
            board.name,
            f"{board.tokens[0]}-{board.tokens[1] - 1}",
            *(
                f"{ms:.1f}"
                for ms in (board.prepare_ms, board.encode_ms, board.compute_ms, board.wait_ms, board.decode_ms)
            ),
            f"{board.sent_bytes:,}",
        )
        for board in (report.explain.boards if report.explain is not None else ())
    ]
    return "\n".join("  " + line for line in table(heads, rows, right=frozenset(heads[1:])).splitlines())
