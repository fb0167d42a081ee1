"""Who is not a member gets nothing and harms nobody: plain TCP, no CURVE, wrong keys, borrowed names, half-open floods.

The attackers stand on the same LAN, in namespaces of their own. Each is shown to reach the port; and a member's own
keys, in the same hands, do get in.
"""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.cluster_token import new_token, read_token
from peer.control_client import ControlClient
from peer.zmq_transport import KeyPair, door_keys, key_pair_of, new_key_pair
from tests.helpers.cluster import PORT, Daemons, cluster
from tests.helpers.lan import Lan, lan, why_no_lan

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(why_no_lan()), reason=why_no_lan() or "runs")]

MODELS = Path(__file__).parents[2] / "models_onnx"
REFUSED = "connected, handshake failed"
CONNECTED = (1, 8)  # TCP_ESTABLISHED, TCP_CLOSE_WAIT
PHOTO = Path(__file__).parents[2] / "docs/photos/chelsea.png"


@pytest.fixture(scope="module")
def boards() -> Iterator[Lan]:
    with lan(3) as made:
        yield made


@pytest.fixture(scope="module")
def daemons(boards: Lan) -> Iterator[Daemons]:
    """Two members; the third board of the LAN is the stranger's."""
    with cluster(boards, MODELS) as running:
        running.start(0, 1)
        running.wait(lambda: running.one_ring(0, 1), "one ring of two")
        yield running


def unharmed(daemons: Daemons) -> None:
    assert daemons.one_ring(0, 1)
    assert set(daemons.members(0)) == {"board-0", "board-1"}
    assert len(daemons.infer(0, PHOTO.read_bytes()).boards) == 2


def attack(boards: Lan, script: str, *arguments: object) -> str:
    """Run a script on the stranger's board; what it printed."""
    command = boards[2].command([sys.executable, "-m", "tests.helpers.stranger", script, *map(str, arguments)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("port", [PORT, PORT + 1, PORT + 2])
def test_a_plain_tcp_client_is_dropped(boards: Lan, daemons: Daemons, port: int) -> None:
    with boards[2].socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
        plain.settimeout(10)
        plain.connect((boards[0].address, port))
        plain.sendall(b"GET / HTTP/1.1\r\nHost: board\r\n\r\n" * 100)
        try:
            while plain.recv(4096):
                pass
        except ConnectionResetError:
            pass
    unharmed(daemons)


@pytest.mark.parametrize("port", [PORT, PORT + 1, PORT + 2])
def test_a_client_without_curve_delivers_nothing(boards: Lan, daemons: Daemons, port: int) -> None:
    assert attack(boards, "plain", boards[0].address, port) == REFUSED
    unharmed(daemons)


def test_an_unknown_key_opens_neither_the_door_nor_the_sockets_behind(boards: Lan, daemons: Daemons) -> None:
    """The stranger even knows the board's public key, and knocks with another cluster's token."""
    address = boards[0].address
    server = identity(daemons, 0).public
    own, member = new_key_pair(), identity(daemons, 1)
    theirs = member.public.hex(), member.secret.hex()
    assert attack(boards, "keys", address, PORT + 1, server.hex(), *theirs) == "handshake succeeded"
    for port in (PORT + 1, PORT + 2):
        said = attack(boards, "keys", address, port, server.hex(), own.public.hex(), own.secret.hex())
        assert said == REFUSED
    other = door_keys(read_token_text(new_token(), daemons.folder))
    assert attack(boards, "keys", address, PORT, other.public.hex(), other.public.hex(), other.secret.hex()) == REFUSED
    unharmed(daemons)


def test_a_member_cannot_speak_for_another(boards: Lan, daemons: Daemons) -> None:
    """A third board holds the token and is admitted under its own key; then it says Goodbye in board 1's name."""
    token = read_token(daemons.token_file)
    victim = daemons.members(0)["board-1"]
    said = attack(boards, "impostor", boards[0].address, PORT, token.hex(), victim.id, victim.incarnation)
    assert said == "sent"
    daemons.wait(lambda: "impostor" in daemons.members(0), "the third board was admitted under its own name")
    assert daemons.status(0, 1) == "alive"
    assert len(daemons.infer(0, PHOTO.read_bytes(), boards=2).boards) == 2


def test_half_open_connections_keep_no_member_out(boards: Lan, daemons: Daemons) -> None:
    """One that was restarted meanwhile has to get through all three ports anew."""
    held = []
    grown = rss_bytes(daemons, 0)
    try:
        for number in range(500):
            half = boards[2].socket(socket.AF_INET, socket.SOCK_STREAM)
            half.setblocking(False)
            half.connect_ex((boards[0].address, PORT + number % 3))
            held.append(half)
        daemons.end(1, signal.SIGKILL)
        daemons.start(1)
        daemons.wait(lambda: daemons.one_ring(0, 1), "the member is back through the crowd")
        assert len(daemons.infer(0, PHOTO.read_bytes(), boards=2).boards) == 2
        assert len(daemons.infer(1, PHOTO.read_bytes(), boards=2).boards) == 2
        connected = sum(half.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO) & 0xFF in CONNECTED for half in held)
        assert connected >= 400, "the crowd did not stand at the door"
    finally:
        for half in held:
            half.close()
    grown = rss_bytes(daemons, 0) - grown
    print(f"{grown / 2**20:.1f} MiB more")
    assert grown < 32 << 20, grown


def rss_bytes(daemons: Daemons, index: int) -> int:
    with ControlClient(daemons.home(index) / "sock", timeout_s=10) as client:
        return client.status().rss_bytes


def identity(daemons: Daemons, index: int) -> KeyPair:
    """A board's own keys, from its identity file."""
    stored = json.loads((daemons.home(index) / "identity.json").read_text())
    return key_pair_of(bytes.fromhex(stored["secret"]))


def read_token_text(text: str, folder: Path) -> bytes:
    """The 32 bytes of a token's text."""
    path = folder / "other-token"
    path.write_text(text + "\n")
    path.chmod(0o600)
    return read_token(path)
