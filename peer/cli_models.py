"""`peerctl models`: what there is to run, with which codecs, and whether its files are whole."""

import time
from dataclasses import replace
from pathlib import Path

import click

from peer.cli_output import Asked, Progress, bold, count, printable, say_json, shared_options, table
from peer.control_client import ControlClient
from peer.errors import DeadlineExceeded, NoSuchModel, PeerError
from peer.reports import ModelReport

# Hashing a large model on a slow card takes a while.
_VERIFY_TIMEOUT_S = 600.0
_FETCH_TIMEOUT_S = 3600.0
_FETCH_POLL_S = 0.2


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("action", type=click.Choice(["list", "show", "verify", "fetch"]), default="list")
@click.argument("model", required=False)
@shared_options
@click.pass_context
def models(
    ctx: click.Context,
    *,
    action: str,
    model: str | None,
    as_json: bool,
    socket: Path | None,
    timeout: float | None,
) -> None:
    """Models on this board and on the ring: list them, show one, check digests, get one from other boards.

    \b
    Examples:
      peerctl models
      peerctl models show vit-cifar10
      peerctl models verify
      peerctl models fetch vit-cifar10
    """
    asked = Asked(socket=socket, json=as_json, timeout_s=timeout)
    if action in ("show", "fetch") and model is None:
        raise click.UsageError(f"{action} takes the name of a model", ctx)
    if action == "list" and model is not None:
        raise click.UsageError("list takes no name; show does", ctx)
    if action == "fetch" and model is not None:
        _fetch(asked, model, timeout_s=timeout or _FETCH_TIMEOUT_S)
        return
    with asked.client(default_timeout_s=_VERIFY_TIMEOUT_S if action == "verify" else 30.0) as client:
        if action == "verify":
            ctx.exit(_verify(client, model, as_json=as_json))
        known = client.models()
    if action == "list":
        _list(known, as_json=as_json)
        return
    for entry in known:
        if entry.name == model:
            _show(entry, as_json=as_json)
            return
    names = ", ".join(entry.name for entry in known) or "none"
    raise NoSuchModel(f"no model {model!r} on this ring; there are: {names}")


def _list(known: tuple[ModelReport, ...], *, as_json: bool) -> None:
    if as_json:
        say_json({"models": known})
        return
    heads = ("model", "labels", "blocks", "width", "tokens", "size MB", "boards", "codecs", "weights")
    rows = [
        (
            entry.name + (" (default)" if entry.default else ""),
            f"{entry.labels:,}",
            str(entry.blocks),
            str(entry.width),
            str(entry.tokens),
            f"{entry.bytes / 1e6:.1f}",
            str(len(entry.boards)),
            str(len(entry.codecs)),
            entry.provenance.get("weights", "?"),
        )
        for entry in known
    ]
    click.echo(table(heads, rows, right=frozenset(heads[1:-1])))


def _show(entry: ModelReport, *, as_json: bool) -> None:
    if as_json:
        say_json(entry)
        return
    click.echo(bold(printable(entry.name)) + (" (default)" if entry.default else ""))
    facts = [
        ("id", entry.model_id),
        ("task", f"{entry.task}, {count(entry.labels, 'label')}"),
        ("shape", f"{count(entry.blocks, 'block')} of width {entry.width} over {count(entry.tokens, 'token')}"),
        ("size", f"{entry.bytes / 1e6:.1f} MB"),
        ("on", f"{count(len(entry.boards), 'board')}: {', '.join(entry.boards) or '-'}"),
        *sorted(entry.provenance.items()),
    ]
    for key, value in facts:
        if value:
            click.echo(f"  {printable(key):8} {printable(value)}")
    heads = ("codec", "kind", "of", "bits/token", "smaller", "error", "measure", "points lost (boards)")
    rows = [
        (
            codec.name + (" (default)" if codec.name == entry.default_codec else ""),
            codec.kind,
            codec.source,
            f"{codec.bits_per_token:,.0f}",
            f"{codec.compression:,.1f}x",
            f"{codec.error.value:.3g}",
            codec.error.kind,
            ", ".join(f"{points:.2f} ({boards})" for boards, points in codec.points_lost) or "-",
        )
        for codec in entry.codecs
    ]
    click.echo(table(heads, rows, right=frozenset({"bits/token", "smaller", "error"})))


def _fetch(asked: Asked, model: str, *, timeout_s: float) -> None:
    """Have a model fetched, and watch it come; the daemon goes on when nobody watches."""
    until, progress = time.monotonic() + timeout_s, Progress(100)
    with replace(asked, timeout_s=None).client() as client:
        while not (report := client.fetch(model)).done:
            if time.monotonic() > until:
                progress.clear()
                raise DeadlineExceeded(f"model {model} is not here yet; the daemon goes on, ask again later")
            if report.total_bytes:
                percent = 100 * report.done_bytes // report.total_bytes
                megabytes = f"{report.done_bytes / 1e6:.1f} of {report.total_bytes / 1e6:.1f} MB"
                progress.show(percent, f"{megabytes} from {count(report.boards, 'board')}")
            time.sleep(_FETCH_POLL_S)
    progress.clear()
    if asked.json:
        say_json(report)
        return
    if not report.total_bytes:
        click.echo(f"{printable(report.model)} is on this board")
        return
    resumed = f", {report.resumed_bytes / 1e6:.1f} MB were here" if report.resumed_bytes else ""
    received = f"{report.received_bytes / 1e6:.1f} MB from {count(report.boards, 'board')} in {report.seconds:.1f} s"
    click.echo(f"{printable(report.model)}: {received}{resumed}, every digest right, loaded ({report.model_id})")


def _verify(client: ControlClient, model: str | None, *, as_json: bool) -> int:
    """Check one model, or all that this board holds; returns the exit code, that of the first failure."""
    if model is not None:
        names = [model]
    else:
        own = client.status().id
        names = [entry.name for entry in client.models() if own in entry.boards]
    first_failure = 0
    for name in names:
        try:
            report = client.verify(name)
        except PeerError as exc:
            first_failure = first_failure or exc.exit_code
            click.echo(f"peerctl: {printable(str(exc))}", err=True)
            continue
        if as_json:
            say_json(report)
        else:
            size = f"{count(report.files, 'file')}, {report.bytes / 1e6:.1f} MB"
            click.echo(f"{printable(report.model)}: {size}, every digest right ({report.model_id})")
    if not names:
        raise NoSuchModel("this board holds no model; put one into its models folder")
    return first_failure
