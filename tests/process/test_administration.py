"""Who belongs to the cluster, with real daemons on loopback: rotate, join, leave, forget, revoke, and doctor."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peer.cluster_token import new_token, write_token
from peer.control_client import ControlClient
from peer.errors import PeerError
from peer.local_ring import _free_ports
from peer.reports import MemberReport

pytestmark = pytest.mark.process

LIMIT_S = 30.0
# A stranger greets its seeds at least every five seconds; an old token that worked would show by then.
GREETED_S = 6.0


class Boards:
    """Daemons on loopback, started one by one, each with the seeds and the token file that the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports: dict[str, int] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def token_file(self, name: str, text: str | None = None) -> Path:
        path = self.folder / name
        write_token(path, text or new_token())
        return path

    def start(self, name: str, token: Path | None, *seeds: str) -> None:
        port = self.ports.setdefault(name, _free_ports(1)[0])
        home = self.folder / name
        home.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "peer.cli_peerd", "--config", os.devnull, "--state-dir", str(home)]
        command += ["--socket", str(self.socket(name)), "--listen", f"127.0.0.1:{port}", "--name", name]
        command += ["--threads", "1"]
        command += ["--token-file", str(token)] if token else []
        for seed in seeds:
            command += ["--seed", f"127.0.0.1:{self.ports[seed]}"]
        with (home / "log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def socket(self, name: str) -> Path:
        return self.folder / name / "sock"

    def peerctl(self, name: str, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "peer.cli", *arguments, "--socket", str(self.socket(name))],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
            input=text,
        )

    def members(self, name: str) -> dict[str, MemberReport]:
        try:
            with ControlClient(self.socket(name), timeout_s=5) as client:
                return {member.name: member for member in client.members()}
        except PeerError:
            return {}

    def states(self, name: str) -> dict[str, str]:
        """What a board believes of the others."""
        return {other: member.status for other, member in self.members(name).items() if other != name}

    def wait(self, reached: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + LIMIT_S
        while not reached():
            logs = {name: (self.folder / name / "log").read_text()[-500:] for name in self.processes}
            assert time.monotonic() < until, f"{what}: { ({name: self.states(name) for name in self.ports}) } {logs}"
            time.sleep(0.05)

    def one_ring(self, *names: str) -> None:
        """Wait until these see each other alive, and nobody else."""
        for name in names:
            wanted = {other: "alive" for other in names if other != name}
            self.wait(
                lambda name=name, wanted=wanted: (
                    self.socket(name).exists()
                    and {k: v for k, v in self.states(name).items() if v == "alive"} == wanted
                ),
                f"{name} in one ring with {sorted(wanted)}",
            )

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(LIMIT_S)


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[Boards]:
    boards = Boards(tmp_path)
    yield boards
    boards.stop()


def ring_of_three(boards: Boards) -> Path:
    token = boards.token_file("token")
    boards.start("a", token)
    boards.start("b", token, "a")
    boards.start("c", token, "a")
    boards.one_ring("a", "b", "c")
    return token


def test_a_rotated_token_opens_the_door_and_the_old_one_does_not(boards: Boards) -> None:
    old = ring_of_three(boards)
    done = boards.peerctl("b", "token", "rotate", "--json")
    assert (done.returncode, json.loads(done.stdout)["generation"], json.loads(done.stdout)["told"]) == (0, 1, 2)
    texts = set()
    for name in ("a", "b", "c"):
        boards.wait(lambda name=name: boards.peerctl(name, "token", "show").stdout.strip() != "", "a token")
        texts.add(boards.peerctl(name, "token", "show").stdout.strip())
    assert len(texts) == 1
    assert texts != {old.read_text().strip()}
    boards.one_ring("a", "b", "c")

    boards.start("late", old, "a", "b", "c")
    time.sleep(GREETED_S)
    assert all("late" not in boards.states(name) for name in ("a", "b", "c"))
    assert boards.states("late") == {}
    boards.wait(
        lambda: any(
            f["topic"] == "seeds" and "token" in f["remedy"]
            for f in json.loads(boards.peerctl("late", "doctor", "--json").stdout)["findings"]
        ),
        "doctor to name the token",
    )
    report = json.loads(boards.peerctl("a", "doctor", "--json").stdout)
    assert any(f["topic"] == "door" and "refused" in f["what"] for f in report["findings"])
    assert boards.peerctl("late", "doctor", "--strict").returncode == 1

    done = boards.peerctl("late", "join", "-", text=texts.pop() + "\n")
    assert done.returncode == 0, done.stderr
    boards.one_ring("a", "b", "c", "late")


def test_a_board_that_was_away_gets_the_new_token_and_keeps_it(boards: Boards) -> None:
    token = ring_of_three(boards)
    boards.processes["c"].send_signal(signal.SIGKILL)
    boards.processes["c"].wait(LIMIT_S)
    boards.wait(lambda: boards.states("a")["c"] == "dead", "c is dead")
    assert boards.peerctl("a", "token", "rotate").returncode == 0
    for _ in range(2):
        boards.start("c", token)
        boards.one_ring("a", "b", "c")
        wanted = boards.peerctl("a", "token", "show").stdout
        boards.wait(lambda wanted=wanted: boards.peerctl("c", "token", "show").stdout == wanted, "c has the new token")
        boards.processes["c"].terminate()
        boards.processes["c"].wait(LIMIT_S)
        boards.wait(lambda: boards.states("a")["c"] == "left", "c has left")


def test_a_board_with_others_joins_elsewhere_only_with_everybody(boards: Boards) -> None:
    ring_of_three(boards)
    other = boards.token_file("other")
    boards.start("x", other)
    text = other.read_text().strip()
    refused = boards.peerctl("a", "join", text)
    assert refused.returncode == 4
    assert "--everybody" in refused.stderr
    assert boards.peerctl("a", "join", text[:-3]).returncode == 2
    assert boards.peerctl("a", "join", text, "--everybody").returncode == 0
    boards.start("y", other, "a", "x")
    boards.one_ring("a", "b", "c", "x", "y")


def test_a_board_that_leaves_ends_with_0_and_is_listed_as_left_and_can_be_forgotten(boards: Boards) -> None:
    token = ring_of_three(boards)
    done = boards.peerctl("c", "leave")
    assert (done.returncode, done.stdout) == (0, "c has left the ring\n")
    assert boards.processes["c"].wait(LIMIT_S) == 0
    for name in ("a", "b"):
        boards.wait(lambda name=name: boards.states(name)["c"] == "left", "c has left")
    assert boards.peerctl("c", "leave").returncode == 3

    gone = boards.members("a")["c"].id
    done = boards.peerctl("a", "forget", gone[:6], "--json")
    assert json.loads(done.stdout)["forgotten"] == [gone]
    for name in ("a", "b"):
        boards.wait(lambda name=name: boards.states(name).keys() == {"a", "b"} - {name}, "c is off the list")
    # Forgotten is not shut out: with the token it comes back.
    boards.start("c", token, "a")
    boards.one_ring("a", "b", "c")


def test_a_living_board_is_not_forgotten_but_revoked(boards: Boards) -> None:
    token = ring_of_three(boards)
    refused = boards.peerctl("a", "forget", "c")
    assert refused.returncode == 4
    assert "--revoke" in refused.stderr
    unknown = boards.peerctl("a", "forget", "nonsense")
    assert unknown.returncode == 4
    assert boards.members("a")["c"].id in unknown.stderr
    assert "this board itself" in boards.peerctl("a", "forget", "a").stderr

    assert boards.peerctl("a", "forget", "c", "--revoke").returncode == 0
    boards.one_ring("a", "b")
    assert boards.peerctl("c", "token", "show").stdout != boards.peerctl("a", "token", "show").stdout
    time.sleep(GREETED_S)
    boards.one_ring("a", "b")
    # Neither a restart, nor the old token, nor a restart of those that shut it out brings it back.
    for name in ("a", "c"):
        boards.processes[name].terminate()
        assert boards.processes[name].wait(LIMIT_S) == 0
        boards.start(name, token, "b")
    boards.one_ring("a", "b")
    time.sleep(GREETED_S)
    boards.one_ring("a", "b")
    assert all("c" not in boards.states(name) for name in ("a", "b"))


def test_without_a_token_nothing_is_rotated_or_joined(boards: Boards) -> None:
    boards.start("a", None)
    boards.one_ring("a")
    for command in (("token", "rotate"), ("join", new_token())):
        refused = boards.peerctl("a", *command)
        assert refused.returncode == 4
        assert "--token-file" in refused.stderr
    report = json.loads(boards.peerctl("a", "doctor", "--json").stdout)
    assert {f["topic"] for f in report["findings"]} >= {"daemon", "boards", "token", "ports", "memory", "onnxruntime"}


def test_doctor_finds_nothing_wrong_with_a_ring_on_one_machine(boards: Boards) -> None:
    ring_of_three(boards)
    report = json.loads(boards.peerctl("b", "doctor", "--json").stdout)
    here = [
        f for f in report["findings"] if f["topic"] not in ("network", "memory", "heat")
    ]  # the machine's own affair
    assert [f for f in here if f["level"] == "wrong"] == []
    boards.processes["c"].send_signal(signal.SIGKILL)
    boards.processes["c"].wait(LIMIT_S)
    boards.wait(lambda: boards.states("b")["c"] == "dead", "c is dead")
    report = json.loads(boards.peerctl("b", "doctor", "--json").stdout)
    dead = [f for f in report["findings"] if f["level"] == "wrong" and f["topic"] == "boards"]
    assert len(dead) == 1
    assert "peerctl forget" in dead[0]["remedy"]
