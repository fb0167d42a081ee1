"""`peerctl doctor`: why boards do not see each other, or why this one is slow, each finding with its remedy."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from peer.cli_output import Asked, count, printable, say_json, shared_options, table
from peer.errors import ConfigError, NoDaemon, PeerError
from peer.exit_codes import ExitCode
from peer.reports import ExaminationReport, FindingReport

_DEFAULT_TIMEOUT_S = 10.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--strict", is_flag=True, help="Exit with 1 when anything is wrong.")
@shared_options
@click.pass_context
def doctor(ctx: click.Context, *, strict: bool, as_json: bool, socket: Path | None, timeout: float | None) -> None:
    """Why boards do not see each other, or why this board is slow, with the remedy.

    Looks at the daemon and at this machine; takes up to five seconds, and works without a daemon, too. A finding
    is ok, a note (worth knowing), or wrong.

    \b
    Examples:
      peerctl doctor
      peerctl doctor --strict && echo healthy
      peerctl doctor --json | jq -r '.findings[] | select(.level == "wrong") | .remedy'
    """
    found = examine(Asked(socket=socket, json=as_json, timeout_s=timeout))
    wrong = sum(finding.level == "wrong" for finding in found)
    if as_json:
        say_json({"wrong": wrong, "notes": sum(f.level == "note" for f in found), "findings": found})
    else:
        click.echo(table(("level", "topic", "finding"), [row for finding in found for row in _rows(finding)]))
        click.echo(f"\n{count(wrong, 'thing')} wrong" if wrong else "\nnothing is wrong")
    if strict and wrong:
        ctx.exit(ExitCode.CHECK_FAILED)


def _rows(finding: FindingReport) -> Sequence[tuple[str, str, str]]:
    first = (finding.level, finding.topic, finding.what)
    return (first, ("", "", f"-> {finding.remedy}")) if finding.remedy else (first,)


def examine(asked: Asked) -> tuple[FindingReport, ...]:
    """What the daemon says of itself, and what can be seen around it."""
    from peer import findings
    from peer.config import DEFAULT_PORT, HostPort, Settings, load, token_place
    from peer.doctor import examine as examine_machine
    from peer.findings import finding_report

    daemon: ExaminationReport | None = None
    found: list[FindingReport] = []
    try:
        with asked.client(default_timeout_s=_DEFAULT_TIMEOUT_S) as client:
            daemon = client.doctor()
        found += [finding_report(findings.ok("daemon", f"it answers (pid {daemon.pid})")), *daemon.findings]
    except NoDaemon as problem:
        found.append(finding_report(findings.no_daemon(str(problem))))
    except PeerError as problem:
        found.append(finding_report(findings.wrong("daemon", str(problem), "restart peerd and read its log")))
    listen = HostPort(host="127.0.0.1", port=DEFAULT_PORT)
    allowed: Sequence[str] = ()
    place = None
    if daemon is not None:
        listen, allowed = HostPort(host=daemon.host, port=daemon.port), daemon.interfaces
    else:
        try:
            place = token_place(os.environ, uid=os.geteuid())
            config = load(flags=Settings(), environ=os.environ)
            listen, allowed = config.listen, config.interfaces
        except ConfigError as problem:
            what, _, remedy = printable(str(problem)).partition("; ")
            found.append(finding_report(findings.wrong("configuration", what, remedy or "correct it")))
    machine = examine_machine(
        host=listen.host,
        port=listen.port,
        daemon_pid=daemon.pid if daemon else None,
        model_bytes=daemon.model_bytes if daemon else None,
        boards=daemon.boards if daemon else (),
        allowed=allowed,
        token_place=place,
    )
    return (*found, *(finding_report(finding) for finding in machine))
