"""`peerctl token`, `join`, `leave`, `forget`, `doctor`: with a daemon that answers from memory, and without one."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_control_daemon import Daemon, Ran, member

from peer import cli, doctor
from peer.cluster_token import new_token, parse_token, read_token
from peer.findings import ok, wrong
from peer.reports import FindingReport, ForgetQuery, JoinQuery

Peerctl = Callable[..., Ran]
COMMANDS = ("token", "join", "leave", "forget", "doctor")


@pytest.fixture
def alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Peerctl:
    """`peerctl` of a person with an empty home and no daemon."""
    for variable in ("TOKENRING_SOCKET", "TOKENRING_TOKEN_FILE", "XDG_RUNTIME_DIR", "STATE_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path))

    def run(*arguments: object) -> Ran:
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(code=int(code), out=out, err=err)

    return run


@pytest.fixture
def healthy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda **_: [ok("machine", "fine")])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples_and_loads_nothing_heavy(command: str) -> None:
    probe = f"import sys; from peer.cli import main; main([{command!r}, '-h']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert f"peerctl {command}" in done.stdout
    assert "Examples:" in done.stdout
    assert not {"numpy", "onnxruntime", "zmq", "PIL", "msgpack", "asyncio", "ifaddr"} & set(done.stderr.split())


def test_a_new_token_is_a_token_and_every_time_another(alone: Peerctl, tmp_path: Path) -> None:
    first, second = alone("token", "new").out.strip(), alone("token", "new").out.strip()
    assert parse_token(first) != parse_token(second)
    path = tmp_path / "given"
    assert alone("token", "new", "--file", path).code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(read_token(path)) == 32
    again = alone("token", "new", "--file", path)
    assert (again.code, again.err.count("\n")) == (4, 1)
    assert alone("token", "show", "--token-file", path).out.strip() == path.read_text().strip()


def test_the_daemons_token_is_shown(peerctl: Peerctl) -> None:
    assert peerctl("token", "show").out == "tr1-the-daemons\n"
    assert json.loads(peerctl("token", "show", "--json").out) == {"token": "tr1-the-daemons", "generation": 2}


def test_without_a_daemon_joining_keeps_the_token_and_show_finds_it(alone: Peerctl, tmp_path: Path) -> None:
    assert alone("token", "show").code == 8
    text = new_token()
    for attempt in (text, new_token()):
        done = alone("join", attempt)
        assert done.code == 0
        path = tmp_path / "tokenring/token"
        assert str(path) in done.out
        assert path.stat().st_mode & 0o777 == 0o600
        assert [file.name for file in path.parent.iterdir()] == ["token"]
        assert alone("token", "show").out.strip() == attempt
    path.chmod(0o644)
    assert alone("token", "show").code == 2


def test_the_token_can_come_from_standard_input(
    alone: Peerctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = new_token()
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"  {text}\n"))
    assert alone("join", "-").code == 0
    assert (tmp_path / "tokenring/token").read_text().strip() == text


def test_no_daemon_is_3_and_nonsense_is_2(alone: Peerctl, tmp_path: Path) -> None:
    for command in (("token", "rotate"), ("leave",), ("forget", "x")):
        assert alone(*command).code == 3
    assert alone("join", new_token(), "--socket", tmp_path / "none").code == 3
    assert not (tmp_path / "tokenring/token").exists()
    for command in (("join", "tr1-short"), ("join",), ("token",), ("forget",), ("token", "rotate", "--file", "x")):
        assert alone(*command).code == 2


def test_wishes_reach_the_daemon_and_its_refusal_is_4(peerctl: Peerctl, daemon: Daemon) -> None:
    text = new_token()
    refused = peerctl("join", text)
    assert (refused.code, refused.out) == (4, "")
    assert "--everybody" in refused.err
    assert peerctl("join", text, "--everybody").out.endswith("3 other boards told\n")
    done = json.loads(peerctl("forget", "abc", "--revoke", "--json").out)
    assert done == {"generation": 0, "told": 2, "forgotten": [member(3).id]}
    assert json.loads(peerctl("token", "rotate", "--json").out)["generation"] == 3
    assert daemon.api.wishes == [
        JoinQuery(token=text),
        JoinQuery(token=text, everybody=True),
        ForgetQuery(id="abc", revoke=True),
    ]


def test_leave_waits_until_the_process_has_gone(peerctl: Peerctl, daemon: Daemon) -> None:
    with subprocess.Popen(["sleep", "0.3"]) as process:
        daemon.api.pid = process.pid
        done = peerctl("leave")
        assert (done.code, done.out) == (0, "board-0 has left the ring\n")
    with subprocess.Popen(["sleep", "60"]) as process:
        daemon.api.pid = process.pid
        assert peerctl("leave", "--timeout", 0.2).code == 6
        process.kill()


@pytest.mark.usefixtures("healthy_machine")
def test_doctor_ends_each_finding_with_its_remedy(peerctl: Peerctl, daemon: Daemon) -> None:
    assert peerctl("doctor", "--strict").code == 0
    bad = wrong("boards", "board-3 is \x1b[2Jdead", "start it")
    daemon.api.findings.append(FindingReport(topic=bad.topic, level="wrong", what=bad.what, remedy=bad.remedy))
    done = peerctl("doctor")
    assert done.code == 0
    assert "board-3 is \\x1b[2Jdead" in done.out
    assert "-> start it" in done.out
    assert "1 thing wrong" in done.out
    assert peerctl("doctor", "--strict").code == 1
    report = json.loads(peerctl("doctor", "--json").out)
    assert report["wrong"] == 1
    assert report["findings"][0] == {"topic": "daemon", "level": "ok", "what": "it answers (pid 1)", "remedy": ""}


@pytest.mark.usefixtures("healthy_machine")
def test_doctor_works_without_a_daemon_and_says_so(alone: Peerctl, tmp_path: Path) -> None:
    report = json.loads(alone("doctor", "--json").out)
    assert [f["topic"] for f in report["findings"]] == ["daemon", "machine"]
    assert report["findings"][0]["level"] == "wrong"
    assert alone("doctor", "--strict").code == 1
    config = tmp_path / "tokenring/peerd.toml"
    config.parent.mkdir()
    config.write_text("nonsense = 1\n")
    report = json.loads(alone("doctor", "--json").out)
    assert [f["topic"] for f in report["findings"]] == ["daemon", "configuration", "machine"]
    assert "nonsense" in report["findings"][1]["what"]
