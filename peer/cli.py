"""`peerctl`: everything a person types. Finds the command, runs it, and turns every error into one line.

Commands live in `peer.cli_*` modules and are imported when they are run, so that `peerctl --help` loads click alone.
"""

import importlib
import sys

import click
from click.shell_completion import CompletionItem

from peer.errors import PeerError
from peer.exit_codes import ExitCode

# Name, module, and the line that `peerctl --help` shows: known here so that help imports none of the modules.
_COMMANDS = {
    "up": ("peer.cli_up", "Start several boards on this machine, to try things out."),
    "infer": ("peer.cli_infer", "Classify images over the ring."),
    "members": ("peer.cli_members", "Who is here, in which state, and why."),
    "top": ("peer.cli_top", "What the ring does now: boards, shares, rates, latencies."),
    "trace": ("peer.cli_trace", "Where the time of one request went, on every board."),
    "ring": ("peer.cli_members", "The order of the boards and the tokens each holds."),
    "plan": ("peer.cli_plan", "What a request would take on 1, 2, ... boards, and which way is best."),
    "models": ("peer.cli_models", "Models on this board and on the ring; check their digests."),
    "token": ("peer.cli_cluster", "The cluster's token: make one, show it, rotate it."),
    "join": ("peer.cli_cluster", "Enter the cluster that a token belongs to."),
    "leave": ("peer.cli_cluster", "Finish, say goodbye, and end the daemon."),
    "forget": ("peer.cli_cluster", "Take a board off the list; shut it out for good."),
    "doctor": ("peer.cli_doctor", "Why boards do not see each other, with the remedy."),
    "bench": ("peer.cli_bench", "Measure the ring against one board alone."),
}
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command if isinstance(command, click.Command) else None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands from the table above: the modules need not be imported for a TAB."""
        named = [
            CompletionItem(name, help=line) for name, (_, line) in _COMMANDS.items() if name.startswith(incomplete)
        ]
        return named + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tokenring", message="peerctl %(version)s")
@click.pass_context
def peerctl(ctx: click.Context) -> None:
    """Run one Vision Transformer on several boards together.

    \b
    Examples:
      peerctl up --boards 4 -- peerctl infer photo.jpg
      peerctl infer photo.jpg --explain
      peerctl infer photos/ --json
      peerctl members --watch

    \b
    Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 no daemon, 4 no such
    model or refused, 5 bad input file, 6 deadline passed, 7 not enough boards,
    8 not admitted to the cluster.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(ExitCode.WRONG_USAGE)


def main(arguments: list[str] | None = None) -> int:
    """Run `peerctl`; returns its exit code, never raises."""
    try:
        return int(peerctl.main(args=arguments, prog_name="peerctl", standalone_mode=False) or ExitCode.DONE)
    except click.UsageError as exc:
        command = exc.ctx.command_path if exc.ctx is not None else "peerctl"
        return _say(exc.format_message().rstrip(".") + f"; see {command} --help", ExitCode.WRONG_USAGE)
    except click.ClickException as exc:
        return _say(exc.format_message(), exc.exit_code)
    except click.Abort:
        return _INTERRUPTED
    except PeerError as exc:
        return _say(str(exc), exc.exit_code)
    except Exception as exc:  # noqa: BLE001 - a traceback helps no user; the type and text are what a report needs
        return _say(f"a mistake in peerctl: {type(exc).__name__}: {exc}; please report it", ExitCode.CHECK_FAILED)


def _say(message: str, code: int) -> int:
    from peer.cli_output import printable

    sys.stderr.write(f"peerctl: {printable(message)}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
