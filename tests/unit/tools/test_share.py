"""Completion and man pages: as current as the help they come from, and understood by the programs that read them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from peer.cli import peerctl
from tools.share import ROOT, click_version, files

SHARE = ROOT / "share"
COMPLETE = {
    "bash": (
        "source {share}/bash-completion/completions/peerctl; COMP_WORDS=(peerctl {words}); "
        'COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); _peerctl_completion peerctl; printf "%s\\n" "${{COMPREPLY[@]}}"'
    ),
    "zsh": (
        # Completion proper needs a terminal; what the function asks for and gets back does not.
        "compdef() {{ }}; source {share}/zsh/site-functions/_peerctl; "
        '_describe() {{ print -l -- "${{(@P)3}}" }}; compadd() {{ print -l -- "${{completions[@]}}" }}; '
        "words=(peerctl {words}); CURRENT=${{#words}}; _peerctl_completion peerctl"
    ),
    "fish": "source {share}/fish/vendor_completions.d/peerctl.fish; complete -C 'peerctl {words}'",
}


def made_with() -> str:
    found = re.search(r"with click (\S+)\.$", (SHARE / "man/man1/peerctl.1").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def test_what_lies_there_is_what_would_be_written() -> None:
    if made_with() != click_version():
        pytest.skip(f"made with click {made_with()}, here is {click_version()}, which may word the same help otherwise")
    for place, text in files().items():
        assert (SHARE / place).read_text(encoding="utf-8") == text, f"{place} is old; run make share"


def test_the_package_installs_every_file() -> None:
    listed = set(re.findall(r"^\s*(?:\S+ = )?(share/\S+/\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE))
    assert listed >= {f"share/{place}" for place in files()}
    assert {path.relative_to(SHARE).as_posix() for path in SHARE.rglob("*") if path.is_file()} == set(files())


def test_the_page_names_every_command_and_option() -> None:
    page = (SHARE / "man/man1/peerctl.1").read_text(encoding="utf-8").replace("\\-", "-")
    ctx = click.Context(peerctl)
    for name in peerctl.list_commands(ctx):
        command = peerctl.get_command(ctx, name)
        assert command is not None
        begin = page.index(f'.SS "peerctl {name}')
        section = page[begin : page.find(".SS", begin + 3)]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in section, f"{name} {parameter.opts[0]}"


@pytest.mark.parametrize("page", ["man1/peerctl.1", "man8/peerd.8"])
@pytest.mark.parametrize("reader", ["groff", "mandoc"])
def test_readers_of_man_pages_have_nothing_to_complain_of(page: str, reader: str) -> None:
    if shutil.which(reader) is None:
        pytest.skip(f"{reader} is not installed")
    command = ["groff", "-man", "-ww", "-Tutf8"] if reader == "groff" else ["mandoc", "-Tlint", "-Werror"]
    done = subprocess.run([*command, SHARE / "man" / page], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", COMPLETE)
@pytest.mark.parametrize(("words", "offered"), [("m", {"members", "models"}), ("top --o", {"--once"})])
def test_a_shell_offers_what_fits(shell: str, words: str, offered: set[str], tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    script = COMPLETE[shell].format(share=SHARE, words=words)
    done = subprocess.run(
        [program, "-c", script], capture_output=True, text=True, check=False, env=environment, timeout=60
    )
    assert {re.split(r"[:\t]", line)[0] for line in done.stdout.split("\n") if line} == offered, done.stderr
