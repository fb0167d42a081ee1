"""The example that people copy is read by the daemon's own parser, and leaves out no key."""

import re
from dataclasses import fields
from pathlib import Path

from peer.config import Settings, load, parse

EXAMPLE = Path(__file__).parents[3] / "systemd/peerd.example.toml"


def test_the_example_holds_the_defaults(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    plain = load(flags=Settings(), environ=home, uid=1000, hostname="h")
    copied = load(flags=parse(EXAMPLE.read_text(), origin="example"), environ=home, uid=1000, hostname="h")
    assert copied == plain


def test_the_example_names_every_key() -> None:
    named = set(re.findall(r"^#? ?(\w+) = ", EXAMPLE.read_text(), re.MULTILINE))
    assert named == {field.name for field in fields(Settings)}


def test_its_commented_lines_are_valid_too() -> None:
    text = "\n".join(line.removeprefix("# ") for line in EXAMPLE.read_text().splitlines() if " = " in line)
    last = {line.partition(" = ")[0]: line for line in text.splitlines()}
    parse("\n".join(last.values()), origin="example")
