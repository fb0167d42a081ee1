"""`peerctl infer`: classify images over the ring."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from peer.control_client import ControlClient
from peer.control_protocol import MAX_BLOBS, MAX_BODY_BYTES, MAX_INPUT_NAME
from peer.errors import BadInput, DeadlineExceeded, PeerError
from peer.records import to_json
from peer.reports import DEFAULT_DEADLINE_S, InferQuery, InferReport
from peer.stream import Window, in_order

# Longer than the daemon's own deadline, so that its better explained answer arrives first.
_DEADLINE_GRACE_S = 2.0
# Requests in flight: one that is computed, one that waits, and what is on its way while the asked board computes one
# itself, as it takes answers and hands requests on in between.
_PER_BOARD = 4
_MOST_AT_ONCE = 32
_MEMBERS_S = 2.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", help="Model to use  [the daemon's default].")
@click.option("--boards", type=click.IntRange(1), help="Exactly this many boards  [the planner's choice].")
@click.option("--shares", metavar="A,B,...", help="Tokens of the boards in proportion, in ring order  [by speed].")
@click.option("--codec", help="How codes are packed on the way (see peerctl models show)  [the model's].")
@click.option(
    "--within",
    type=click.FloatRange(-100, 100),
    metavar="POINTS",
    help="The fastest codec measured to lose no more percentage points on so many boards (see peerctl models show).",
)
@click.option(
    "--exchange", type=click.Choice(["ring", "direct"]), help="How codes travel between the boards  [direct]."
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "single", "sequence"]),
    default="auto",
    help="One board, or tokens split over all boards; auto: whichever is faster (see peerctl plan)  [auto].",
)
@click.option("--top", type=click.IntRange(1, 1000), default=5, help="Labels to show  [5].")
@click.option("--logits", is_flag=True, help="All raw outputs as well (with --json).")
@click.option("--deadline", type=click.FloatRange(0.001, 86_400), metavar="SECONDS", help="Fail when not done by then.")
@click.option(
    "--allow-degraded",
    is_flag=True,
    help="Rather than run anew answer without a board lost after a third of the blocks (tokens missing or foretold).",
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
    within: float | None,
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
      peerctl infer photo.jpg --within 2       rather two points less often right than slow
      peerctl infer photos/ --json > results.jsonl
    """
    if mode == "single" and boards is not None and boards > 1:
        raise click.UsageError(f"--mode single is one board, --boards says {boards}", ctx)
    if codec is not None and within is not None:
        raise click.UsageError("--codec names one codec, --within leaves the choice to the planner: give one", ctx)
    asked = Asked(socket=socket, json=as_json, timeout_s=timeout or (deadline and deadline + _DEADLINE_GRACE_S))
    query = InferQuery(
        inputs=(),
        model=model,
        boards=boards,
        shares=_weights(ctx, shares),
        codec=codec,
        within=within,
        exchange=exchange,
        mode=mode,
        top=top,
        logits=logits,
        deadline_s=deadline,
        allow_degraded=allow_degraded,
    )
    run = _Run(asked=asked, query=query, as_json=as_json, explain=explain)
    ctx.exit(run.classify(files, batch))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Files that travel as one request."""

    paths: tuple[Path, ...]
    images: tuple[bytes, ...]
    left: int  # files from these on


_Outcome = tuple[Path, InferReport | PeerError]


class _Run:
    """One invocation: sends the files, prints what comes back, and remembers what failed."""

    def __init__(self, *, asked: Asked, query: InferQuery, as_json: bool, explain: bool) -> None:
        self._asked = asked
        self._query = query
        self._as_json = as_json
        self._explain = explain
        self._failures: list[PeerError] = []
        self._progress = Progress(0)
        self._arrived = 0
        self._at_once = 1
        self._turned_to: set[str] = set()

    def classify(self, named: tuple[Path, ...], batch: int) -> int:
        """All files named; returns the exit code, that of the first failure."""
        paths, failures = gather(named)
        self._progress = Progress(len(paths))
        for failure in failures:
            self._fail(failure)
        for outcomes in self._outcomes(paths, batch):
            for path, outcome in outcomes:
                if isinstance(outcome, PeerError):
                    self._fail(outcome)
                else:
                    self._progress.clear()
                    self._show(replace(outcome, input=str(path)))
        self._progress.clear()
        if len(paths) + len(failures) > 1 and self._failures:
            click.echo(
                f"peerctl: {len(self._failures)} of {count(len(paths) + len(failures), 'input')} failed", err=True
            )
        return self._failures[0].exit_code if self._failures else 0

    def _outcomes(self, paths: list[Path], batch: int) -> Iterator[list[_Outcome]]:
        """What became of every file, in order: one request after the other, or several at once where there are many."""
        groups = _groups(paths, batch)
        if len(paths) <= batch:
            with self._asking() as work:
                yield from map(work, groups)
            return
        patience_s = self._query.deadline_s or DEFAULT_DEADLINE_S
        self._at_once = min(_MOST_AT_ONCE, _PER_BOARD * self._boards())
        window = Window(most=self._at_once, patience_s=patience_s)
        yield from in_order(groups, self._asking, window, lambda: self._count(batch, len(paths)))

    def _count(self, batch: int, total: int) -> None:
        self._arrived = min(total, self._arrived + batch)
        self._progress.show(self._arrived, "classifying")

    def _boards(self) -> int:
        """How many boards may work at once; one where nobody tells."""
        try:
            with ControlClient(self._asked.sockets()[0], timeout_s=_MEMBERS_S) as client:
                return sum(member.status == "alive" for member in client.members())
        except PeerError:
            return 1  # whoever is asked for an answer tells better what is wrong

    @contextmanager
    def _asking(self) -> Iterator[Callable[[_Group | BadInput], list[_Outcome]]]:
        """What one thread works with: connections of its own."""
        timeout_s = self._asked.timeout_s or DEFAULT_TIMEOUT_S
        with Asking(self._asked.sockets(), timeout_s=timeout_s, say=self._say) as asking:
            yield lambda group: self._send(asking, group)

    def _say(self, why: str, whom: str) -> None:
        """Another daemon is asked from now on: worth a line once, however many requests were under way."""
        if whom not in self._turned_to:
            self._turned_to.add(whom)
            self._progress.clear()
            click.echo(f"peerctl: {printable(why)}; asking {printable(whom)}", err=True)

    def _send(self, asking: Asking, group: _Group | BadInput) -> list[_Outcome]:
        """Ask for one group; what cannot be read or decoded in time is an outcome like any other."""
        if isinstance(group, BadInput):
            return [(Path(), group)]
        names = tuple(path.name[:MAX_INPUT_NAME] for path in group.paths)
        try:
            at_once = min(self._at_once, -(-group.left // len(names)))
            reports = asking.infer(replace(self._query, inputs=names, requests=at_once), group.images)
        except BadInput as exc:
            if len(names) == 1:
                return [(group.paths[0], BadInput(f"{group.paths[0]}: {str(exc).removeprefix(f'{names[0]}: ')}"))]
            # One bad image spoils its batch: the others are sent again alone.
            alone = (_Group(paths=(p,), images=(d,), left=1) for p, d in zip(group.paths, group.images, strict=True))
            return [outcome for one in alone for outcome in self._send(asking, one)]
        except DeadlineExceeded as exc:
            return [(path, DeadlineExceeded(f"{path}: {exc}")) for path in group.paths]
        return list(zip(group.paths, reports, strict=True))

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
            click.echo(f"  why: {printable(report.explain.reason)}\n  {forecast(report)}\n{costs(report)}")


def _groups(paths: list[Path], batch: int) -> Iterator[_Group | BadInput]:
    """Readable files by `batch`, or fewer where they would not fit into one request; and what cannot be read."""
    group: list[Path] = []
    images: list[bytes] = []
    for number, path in enumerate(paths):
        try:
            data = read_image(path)
        except BadInput as exc:
            yield exc
            continue
        if group and (len(group) == batch or sum(map(len, images)) + len(data) > MAX_BODY_BYTES):
            yield _Group(paths=tuple(group), images=tuple(images), left=len(paths) - number + len(group))
            group, images = [], []
        group.append(path)
        images.append(data)
    if group:
        yield _Group(paths=tuple(group), images=tuple(images), left=len(group))


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


def forecast(report: InferReport) -> str:
    """Predicted beside measured."""
    if not report.predicted_ms:
        return f"predicted: nothing was measured yet; measured {report.latency_ms:.1f} ms"
    off = report.latency_ms / report.predicted_ms - 1
    return f"predicted {report.predicted_ms:.1f} ms, measured {report.latency_ms:.1f} ms ({off:+.0%})"


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
