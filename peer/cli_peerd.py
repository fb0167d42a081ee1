"""`peerd`: the daemon's command line. Parses, builds the configuration, and hands over; nothing else."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from peer.config import (
    DEFAULT_MAX_REQUESTS,
    HostPort,
    PeerdConfig,
    Prepack,
    Settings,
    load,
    parse_metrics,
    parse_threads,
)
from peer.errors import ConfigError
from peer.journal import goes_to_journal


def _read_by(parse: Callable[[str], object]) -> Callable[[click.Context, click.Parameter, object], object]:
    """An option's callback: `parse` on every value given; its ValueError becomes wrong usage."""

    def callback(ctx: click.Context, param: click.Parameter, value: object) -> object:
        try:
            if isinstance(value, tuple):
                return tuple(parse(str(item)) for item in value)
            return None if value is None else parse(str(value))
        except ValueError as exc:
            raise click.BadParameter(str(exc), ctx=ctx, param=param) from exc

    return callback


_ADDRESS = "HOST:PORT"
_PATH = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "config_file", type=_PATH, help="TOML file; every option below is a key of it.")
@click.option("--state-dir", type=_PATH, help="Folder for what this board remembers.")
@click.option("--models", type=_PATH, help="Folder that holds one folder per model.")
@click.option(
    "--listen",
    metavar=_ADDRESS,
    callback=_read_by(HostPort.parse),
    help="Where other boards reach this one  [127.0.0.1:7700].",
)
@click.option(
    "--seed",
    "seeds",
    metavar=_ADDRESS,
    callback=_read_by(HostPort.parse),
    multiple=True,
    help="Another board to greet; may be repeated.",
)
@click.option("--interface", "interfaces", multiple=True, help="Look for boards here only; may be repeated  [all].")
@click.option("--mdns/--no-mdns", default=None, help="Look for boards on the LAN by mDNS  [yes, beyond loopback].")
@click.option("--name", help="This board's name  [the host's name].")
@click.option("--socket", type=_PATH, help="Control socket for peerctl.")
@click.option("--token-file", type=_PATH, help="File with the cluster's token.")
@click.option("--threads", metavar="auto|N", callback=_read_by(parse_threads), help="Compute threads  [auto].")
@click.option("--spinning/--no-spinning", default=None, help="Busy-wait between stages  [no].")
@click.option("--prepack", type=click.Choice([mode.value for mode in Prepack]), help="Rearranged weights  [auto].")
@click.option("--default-model", help="Model to serve when a request names none.")
@click.option(
    "--max-requests", type=click.IntRange(1, 1024), help=f"Requests in flight on this board  [{DEFAULT_MAX_REQUESTS}]."
)
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    callback=_read_by(parse_metrics),
    help="Serve metrics for Prometheus there; without a host on loopback  [off].",
)
@click.version_option(package_name="tokenring", message="peerd %(version)s")
def peerd(
    *,
    config_file: Path | None,
    state_dir: Path | None,
    models: Path | None,
    listen: HostPort | None,
    seeds: tuple[HostPort, ...],
    interfaces: tuple[str, ...],
    mdns: bool | None,
    name: str | None,
    socket: Path | None,
    token_file: Path | None,
    threads: int | str | None,
    spinning: bool | None,
    prepack: str | None,
    default_model: str | None,
    max_requests: int | None,
    metrics: HostPort | None,
) -> PeerdConfig:
    """Serve this board: join the others, run its share of a model, answer peerctl.

    Stays in the foreground; SIGTERM says goodbye to the other boards and ends with 0.

    \b
    Examples:
      peerd
      peerd --listen 192.168.1.20:7700 --seed 192.168.1.21:7700
      peerd --config /etc/tokenring/peerd.toml
    """
    flags = Settings(
        state_dir=state_dir,
        models=models,
        listen=listen,
        seeds=seeds or None,
        interfaces=interfaces or None,
        mdns=mdns,
        name=name,
        socket=socket,
        token_file=token_file,
        threads=threads,
        spinning=spinning,
        prepack=None if prepack is None else Prepack(prepack),
        default_model=default_model,
        max_requests=max_requests,
        metrics=metrics,
    )
    return load(flags=flags, environ=os.environ, config_file=config_file)


def main(arguments: list[str] | None = None) -> int:
    """Run `peerd`; returns its exit code."""
    try:
        config = peerd.main(args=arguments, prog_name="peerd", standalone_mode=False)
    except click.ClickException as exc:
        return _complain(f"{exc.format_message().rstrip('.')}; see peerd --help", exc.exit_code)
    except ConfigError as exc:
        return _complain(str(exc), exc.exit_code)
    if not isinstance(config, PeerdConfig):  # --help and --version return their exit code
        return int(config or 0)
    from peer.daemon import run

    return run(config)


def _complain(problem: str, code: int) -> int:
    """One line; the journal lists it as an error."""
    prefix = "<3>" if goes_to_journal(os.environ, sys.stderr) else "peerd: "
    sys.stderr.write(f"{prefix}{problem}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
