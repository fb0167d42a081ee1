"""`peerctl top` and `members --watch` against a daemon that answers from memory, and lines cut to a screen."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_control_daemon import Daemon, FakeApi, Ran
from hypothesis import given
from hypothesis import strategies as st

from peer import cli_screen
from peer.errors import NoDaemon
from peer.reports import MemberReport

Peerctl = Callable[..., Ran]
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def three_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames follow each other at once, and whoever watches presses Ctrl-C after the third."""
    waits: list[float] = []

    def pressed(seconds: float) -> str:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt
        return ""

    @contextmanager
    def keys() -> Iterator[Callable[[float], str]]:
        yield pressed

    monkeypatch.setattr(cli_screen, "_keys", keys)


def test_top_shows_every_board_and_what_the_ring_does(peerctl: Peerctl) -> None:
    ran = peerctl("top", "--once")
    assert (ran.code, ran.err) == (0, "")
    assert "1.5 answers/s, p50 4.0 ms, p95 9.0 ms over 60 s; 2 under way, 3 waiting" in ran.out
    assert "7 answers (1 degraded), 2 failed; 9 shards computed" in ran.out
    assert "71 °C, held back: policy0 at 600 of 1500 MHz" in ran.out
    row = next(line for line in ran.out.splitlines() if line.startswith("board-2"))
    assert [cell for cell in row.split() if "█" not in cell and "▌" not in cell] == [
        *("board-2", "alive", "0.25", "12.3", "k", "25%", "2.5", "0.5", "1.5", "kB", "2.5", "MB")
    ]
    assert "\x1b" not in ran.out, "a hostile name cannot draw on the terminal"


def test_top_for_scripts(peerctl: Peerctl) -> None:
    value = json.loads(peerctl("top", "--once", "--json").out)
    assert (value["answered"], value["p95_ms"], len(value["boards"])) == (7, 9.0, 5)
    assert set(value["boards"][0]) == {
        *("id", "name", "status", "rtt_ms", "speed", "share", "compute_ms", "wait_ms"),
        *("sent_bytes_per_s", "received_bytes_per_s"),
    }


@pytest.mark.usefixtures("three_frames")
@pytest.mark.parametrize("command", [["top"], ["members", "--watch"]])
def test_what_is_watched_comes_again_and_ctrl_c_is_no_failure(peerctl: Peerctl, command: list[str]) -> None:
    ran = peerctl(*command)
    assert (ran.code, ran.err) == (0, "")
    assert len(re.findall(r"^board +status|^id +name", ran.out, re.MULTILINE)) == 3
    assert "\x1b" not in ran.out, "no terminal, no control characters"


@pytest.mark.usefixtures("three_frames")
@pytest.mark.parametrize("command", [["top"], ["members", "--watch"]])
def test_watched_as_json_it_is_one_value_per_line(peerctl: Peerctl, command: list[str]) -> None:
    lines = peerctl(*command, "--json").out.splitlines()
    assert len([json.loads(line) for line in lines]) == 3


@pytest.mark.usefixtures("three_frames")
def test_a_daemon_that_goes_is_said_on_stderr_and_waited_for(
    peerctl: Peerctl, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [1, 2]
    known = daemon.api.members

    async def members(_: FakeApi) -> Sequence[MemberReport]:
        if left:
            left.pop()
            raise NoDaemon("no daemon answers")
        return await known()

    monkeypatch.setattr(FakeApi, "members", members)
    ran = peerctl("members", "--watch")
    assert ran.code == 0
    assert ran.err.count("peerctl: no daemon answers (trying again)\n") == 2
    assert "board-3" in ran.out


def test_without_a_daemon_top_once_fails_as_every_command_does(peerctl: Peerctl) -> None:
    ran = peerctl("top", "--once", "--socket", "/nonexistent")
    assert (ran.code, ran.out) == (3, "")


def test_a_trace_is_a_waterfall_with_what_each_board_spent(peerctl: Peerctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    ran = peerctl("trace")
    assert (ran.code, ran.err) == (0, "")
    assert "request 00000000000000aa: toy, int8, direct, 5 boards, 8.0 ms" in ran.out
    assert "the last of 2 attempts" in ran.out
    assert re.search(r"^board-2 +\|e{11,12}c{34,35}\|$", ran.out, re.MULTILINE)
    assert re.search(r"evil \|no answer: nothing is known of what it did", ran.out)
    assert re.search(r"^board-3 +0-63 +0.00 +0.00 +2.00 +6.00 .* 0.25$", ran.out, re.MULTILINE)
    assert "\x1b" not in ran.out
    listed = peerctl("trace", "00000000000000aa", "--rounds").out
    assert len(re.findall(r"^ +0 +board-\d +0.00 +2.00 +6.00 +0.00 +0.00 +0.00$", listed, re.MULTILINE)) == 4


def test_a_trace_goes_to_scripts_and_into_a_file(peerctl: Peerctl, tmp_path: Path) -> None:
    value = json.loads(peerctl("trace", "--json").out)
    assert (value["request"], len(value["boards"]), value["boards"][0]["spans"][0]["kind"]) == (
        "00000000000000aa",
        5,
        "encode",
    )
    file = tmp_path / "trace.json"
    ran = peerctl("trace", "-o", file)
    assert (ran.code, ran.out) == (0, "")
    assert f"wrote {file}" in ran.err
    assert json.loads(file.read_text())["otherData"]["request"] == "00000000000000aa"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["0000000000000001"], 4, "knows nothing of request 0000000000000001"),
        (["nonsense"], 4, "give the 16 digits"),
        (["00000000000000AA"], 4, "give the 16 digits"),
        (["-o", "/dev/null/trace.json"], 4, "name another file with -o"),
        (["--socket", "/nonexistent"], 3, "no daemon"),
    ],
)
def test_what_cannot_be_traced_is_one_line(peerctl: Peerctl, arguments: list[str], code: int, words: str) -> None:
    ran = peerctl("trace", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert ran.err.count("\n") == 1


@given(
    parts=st.lists(
        st.one_of(st.text(alphabet="ab é█", max_size=6), st.sampled_from(["\x1b[1m", "\x1b[0m"])), max_size=8
    ),
    columns=st.integers(1, 30),
)
def test_a_line_fits_the_screen_and_leaves_no_style_behind(parts: list[str], columns: int) -> None:
    line = "".join(parts)
    shown = cli_screen.cut(line, columns)
    assert _STYLE.sub("", shown) == _STYLE.sub("", line)[:columns]
    if shown != line and "\x1b" in shown:
        assert shown.endswith("\x1b[0m")
