"""What is installed beside the packages: completion for bash, zsh and fish, and man pages, from the commands' own help.

    python -m tools.share [--out share]

Writes `share/` as it goes under a prefix; setup.cfg installs it with the package. Run it after every change of a
command or an option (`make share`); a test compares what lies there with what would be written.
"""

import argparse
import configparser
import importlib.metadata
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from peer.cli import peerctl
from peer.cli_peerd import peerd
from peer.exit_codes import ExitCode
from peer.paths import SYSTEM_CONFIG, SYSTEM_SOCKET, SYSTEM_STATE

ROOT = Path(__file__).parents[1]
_SHELLS: Mapping[str, tuple[type[ShellComplete], str]] = {
    "bash": (BashComplete, "bash-completion/completions/{}"),
    "zsh": (ZshComplete, "zsh/site-functions/_{}"),
    "fish": (FishComplete, "fish/vendor_completions.d/{}.fish"),
}
_ENVIRONMENT = (
    ("TOKENRING_SOCKET", "Control socket of the daemon to ask; --socket wins."),
    ("TOKENRING_TOKEN_FILE", "File with the cluster's token; --token-file wins."),
    ("TOKENRING_MODELS", "Folder that holds one folder per model; --models wins."),
    ("NO_COLOR", "No emphasis in the output (no-color.org)."),
)
_FILES = (
    (str(SYSTEM_CONFIG), "Configuration of a system daemon; a person's is ~/.config/tokenring/peerd.toml."),
    (str(SYSTEM_STATE), "What a system daemon remembers: identity, token, other boards, models."),
    (str(SYSTEM_SOCKET), "Control socket of a system daemon."),
)


def files() -> Mapping[str, str]:
    """Every file, by its path below the prefix's `share`."""
    programs: Mapping[str, click.Command] = {"peerctl": peerctl, "peerd": peerd}
    made = {}
    for name, command in programs.items():
        for shell, place in _SHELLS.values():
            complete = shell(command, {}, name, f"_{name.upper()}_COMPLETE")
            made[place.format(name)] = complete.source_template % complete.source_vars()
    made["man/man1/peerctl.1"] = man_page("peerctl", 1, peerctl, see="peerd(8)")
    made["man/man8/peerd.8"] = man_page("peerd", 8, peerd, see="peerctl(1)")
    return made


def man_page(name: str, section: int, command: click.Command, *, see: str) -> str:
    """A whole page in man(7)'s macros; without a date, so that it only changes when a command does."""
    ctx = click.Context(command, info_name=name, **command.context_settings)
    summary, *rest = _paragraphs(command)
    lines = [
        f'.\\" Made by python -m tools.share from the help, with click {click_version()}.',
        f'.TH {name.upper()} {section} "" "tokenring {_version()}" "tokenring"',
        ".SH NAME",
        f"{name} \\- {_roff(summary[0].rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {name}",
        _roff(" ".join(command.collect_usage_pieces(ctx))),
        ".SH DESCRIPTION",
        *_prose([summary, *rest]),
        ".SH OPTIONS",
        *_options(command, ctx),
    ]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for child in command.list_commands(ctx):
            lines += _subcommand(command, child, ctx)
    codes = [(str(int(code)), code.name.lower().replace("_", " ")) for code in ExitCode]
    for title, entries in (("EXIT STATUS", codes), ("ENVIRONMENT", _ENVIRONMENT), ("FILES", _FILES)):
        lines.append(f".SH {title}")
        for term, text in entries:
            lines += [".TP", f".B {_roff(term)}", _roff(text)]
    return "\n".join([*lines, ".SH SEE ALSO", _roff(see), ""])


def _subcommand(group: click.Group, name: str, parent: click.Context) -> Iterator[str]:
    command = group.get_command(parent, name)
    if command is None:
        raise LookupError(name)
    ctx = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    yield f'.SS "{_roff(ctx.command_path)} {_roff(" ".join(command.collect_usage_pieces(ctx)))}"'
    yield from _prose(_paragraphs(command))
    yield from _options(command, ctx)


def _options(command: click.Command, ctx: click.Context) -> Iterator[str]:
    for parameter in command.get_params(ctx):
        if not isinstance(parameter, click.Option):
            continue  # the usage line names them, and the text explains them
        record = parameter.get_help_record(ctx)
        if record is not None:
            yield from (".TP", f".B {_roff(record[0])}", _roff(record[1]))


def _paragraphs(command: click.Command) -> list[list[str]]:
    """The help's paragraphs as lines; one that begins with \\b keeps its lines as they are."""
    text = inspect.cleandoc(command.help or "")
    return [block.splitlines() for block in text.split("\n\n") if block.strip()]


def _prose(paragraphs: list[list[str]]) -> Iterator[str]:
    for lines in paragraphs:
        yield ".PP"
        if lines[0] == "\b":
            yield from (".nf", *(_roff(line) for line in lines[1:]), ".fi")
        else:
            yield _roff(" ".join(lines))


def _roff(text: str) -> str:
    """Text that groff takes for text: no escapes, hyphens that can be copied, no line that is a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def click_version() -> str:
    """Major and minor: other releases may word the same help in another way."""
    return ".".join(importlib.metadata.version("click").split(".")[:2])


def _version() -> str:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    return settings["metadata"]["version"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "share")
    out = parser.parse_args().out
    for place, text in files().items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text(text, encoding="utf-8")
        print(out / place)


if __name__ == "__main__":
    main()
