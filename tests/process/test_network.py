"""What goes over the network: nothing but the LAN's own, as many bytes as reported, and for members only.

Each test makes networks of its own and takes down every packet in them. Needs root; elsewhere it is skipped.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peer.cluster_token import new_token, write_token
from peer.control_client import ControlClient
from peer.errors import PeerError
from peer.exit_codes import ExitCode
from peer.reports import InferQuery
from tests.process.namespace import Namespace, Packet, Sniffer, can_isolate, lan, nameserver, namespace

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not can_isolate(), reason="needs root: makes network namespaces and listens in them"),
]

PHOTO = Path(__file__).parents[2] / "docs/photos/chelsea.png"
PEERCTL = (sys.executable, "-m", "peer.cli")
CALM_TRIES = 12
LIMIT_S = 60.0
DNS = 53
# A plain import of onnxruntime 1.31.1 asked for its telemetry host after 5 to 10 s [measured].
REPORTS_HOME_WITHIN_S = 30.0
LISTEN_S = 12.0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Namespace]:
    """A board's usual surroundings: an address on a LAN, a router, a name server; and nobody there."""
    with namespace() as made:
        lan(made, "out0", "192.0.2.10", "192.0.2.1")
        nameserver(made, tmp_path / "resolv.conf", "198.51.100.53")
        yield made


def environment(home: Path) -> dict[str, str]:
    """What a user has set, less what would keep onnxruntime quiet for another reason."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}


def outside(packets: list[Packet]) -> list[Packet]:
    return [packet for packet in packets if packet.interface != "lo"]


def test_nothing_leaves_but_what_goes_to_peers(place: Namespace, tmp_path: Path) -> None:
    with Sniffer(place) as sniffer:
        script = f'"$0" -m peer.cli members --json; "$0" -m peer.cli infer {PHOTO} --boards 4 --json; sleep {LISTEN_S}'
        up = (*PEERCTL, "up", "--boards", 4, "--", "sh", "-c", script, sys.executable)
        done = place.run(*up, env=environment(tmp_path), timeout_s=LIMIT_S + LISTEN_S)
        packets = sniffer.packets()
    members, report = (json.loads(line) for line in done.stdout.splitlines())
    assert len(report["boards"]) == 4
    listeners = {int(member["endpoint"].rpartition(":")[2]) for member in members}
    # The door, membership and tensors; model files have a port as well, and nobody lacks one.
    listeners |= {port + above for port in listeners for above in (1, 2)}
    assert len(listeners) == 12

    assert outside(packets) == []
    assert {packet.protocol for packet in packets} == {"tcp"}
    opened = {packet.port for packet in packets if packet.syn}
    assert opened == listeners
    assert not [packet for packet in packets if not {packet.port, packet.source_port} & listeners]


def test_a_name_that_is_asked_for_is_seen(place: Namespace, tmp_path: Path) -> None:
    """The sniffer of the test above would have noticed."""
    with Sniffer(place) as sniffer:
        ask = "import socket; socket.getaddrinfo('example.invalid', 443)"
        place.run(sys.executable, "-c", ask, env=environment(tmp_path), check=False)
        assert DNS in {packet.port for packet in outside(sniffer.packets())}


def test_onnxruntime_left_alone_reports_home(place: Namespace, tmp_path: Path, random_model: Path) -> None:
    """Why the product sets ORT_DISABLE_TELEMETRY; when a release stops doing it, this test and the switch can go."""
    script = (
        "import onnxruntime, sys, time\n"
        "onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        f"time.sleep({REPORTS_HOME_WITHIN_S})\n"
    )
    command = place.command(sys.executable, "-c", script, random_model / "random/head.onnx")
    with Sniffer(place) as sniffer, subprocess.Popen(command, env=environment(tmp_path)) as process:
        asked = False
        while not asked and process.poll() is None:
            asked = DNS in {packet.port for packet in outside(sniffer.packets())}
        process.kill()
    assert asked


def counted(packets: list[Packet], ports: set[int]) -> int:
    """TCP payload to `ports` and back, bytes."""
    return sum(packet.payload_bytes for packet in packets if {packet.port, packet.source_port} & ports)


def test_reported_bytes_are_those_on_the_wire(tmp_path: Path, random_model: Path) -> None:
    """CURVE is on. Every byte on the data ports counts, less those of an idle spell of the same length."""
    ring = (*PEERCTL, "up", "--boards", 4, "--models", random_model)
    script = 'echo "$TOKENRING_SOCKET"; read line'
    with namespace() as place, Sniffer(place) as sniffer:
        command = place.command(*ring, "--", "sh", "-c", script)
        with subprocess.Popen(
            command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True, env=environment(tmp_path)
        ) as up:
            assert up.stdin is not None
            assert up.stdout is not None
            with ControlClient(Path(up.stdout.readline().strip()), timeout_s=LIMIT_S) as client:
                compare(client, sniffer)
            up.stdin.close()
            assert up.wait(LIMIT_S) in (0, 1)  # `read` sees the end of its input


def compare(client: ControlClient, sniffer: Sniffer) -> None:
    images = [PHOTO.read_bytes()] * 4
    ports = {int(member.endpoint.rpartition(":")[2]) + 2 for member in client.members()}
    for codec in ("f32", "int8", "vq8x16", "tc64"):
        for exchange in ("direct", "ring"):
            query = InferQuery(
                inputs=tuple(map(str, range(4))), boards=4, codec=codec, exchange=exchange, mode="sequence"
            )
            client.infer(query, images)  # loads the codec
            for _ in range(CALM_TRIES):  # boards sound their links now and then while nothing is under way
                payload, wire, seen, idle = spell(client, query, images, sniffer, ports)
                if idle < 0.02 * wire and abs(seen - idle - wire) < 0.05 * wire:
                    break
            assert payload > 5_000
            assert seen - idle >= payload, (codec, exchange)
            assert abs(seen - idle - wire) < 0.05 * wire, (codec, exchange, seen, idle, wire)


def spell(
    client: ControlClient, query: InferQuery, images: list[bytes], sniffer: Sniffer, ports: set[int]
) -> tuple[int, int, int, int]:
    """Five requests: payload and wire bytes as reported, bytes seen meanwhile, and in as long without requests."""
    sniffer.packets()
    started = time.monotonic()
    reports = [client.infer(query, images)[0] for _ in range(5)]
    seen = counted(sniffer.packets(), ports)
    time.sleep(time.monotonic() - started)
    idle = counted(sniffer.packets(), ports)
    return sum(r.payload_bytes for r in reports), sum(r.wire_bytes for r in reports), seen, idle


class Lan:
    """Boards that share nothing but a bridge: each has a network, an address and a cable of its own."""

    def __init__(self, folder: Path, models: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self.models = folder, models
        self.processes: list[subprocess.Popen[bytes]] = []
        self._stack = stack
        self._bridge = stack.enter_context(namespace())
        self._bridge.ip("link add bridge type bridge")
        self._bridge.ip("link set bridge up")

    def board(self, number: int, *options: object, seeds: int = 3) -> Path:
        """Start a daemon on 10.7.0.`number`; returns its control socket."""
        place = self._stack.enter_context(namespace())
        self._bridge.ip(f"link add cable{number} type veth peer name eth0 netns {place.pid}")
        self._bridge.ip(f"link set cable{number} master bridge up")
        place.ip(f"address add 10.7.0.{number}/24 dev eth0")
        place.ip("link set eth0 up")
        home = self.folder / f"board-{number}"
        home.mkdir()
        others = [seed for seed in range(1, seeds + 1) if seed != number]
        command = place.command(
            *(sys.executable, "-m", "peer.cli_peerd", "--listen", f"10.7.0.{number}:7700", "--name", home.name),
            *("--state-dir", home, "--socket", home / "peerd.sock", "--models", self.models, "--threads", 1),
            *(word for seed in others for word in ("--seed", f"10.7.0.{seed}:7700")),
            *options,
        )
        with (home / "stderr").open("wb") as log:
            self.processes.append(subprocess.Popen(command, stderr=log, env=environment(home)))
        return home / "peerd.sock"

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def bridged(tmp_path: Path, random_model: Path) -> Iterator[Lan]:
    with contextlib.ExitStack() as stack:
        made = Lan(tmp_path, random_model, stack)
        stack.callback(made.stop)
        yield made


def token(path: Path) -> Path:
    write_token(path, new_token())
    return path


def names(socket: Path) -> set[str]:
    """The boards that a daemon knows, however they are; empty while it does not answer."""
    try:
        with ControlClient(socket, timeout_s=5) as client:
            return {member.name for member in client.members()} if client.status().ready else set()
    except PeerError:
        return set()


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.1)


def test_boards_on_a_lan_and_a_stranger(bridged: Lan, tmp_path: Path) -> None:
    ours, theirs = token(tmp_path / "ours"), token(tmp_path / "theirs")
    sockets = [bridged.board(number, "--token-file", ours) for number in (1, 2, 3)]
    all_three = {"board-1", "board-2", "board-3"}
    wait_until(lambda: all(names(socket) == all_three for socket in sockets))
    stranger = bridged.board(4, "--token-file", theirs)
    wait_until(lambda: names(stranger) == {"board-4"})

    photo = PHOTO.read_bytes()
    until = time.monotonic() + 3.0  # many hellos of the stranger
    while time.monotonic() < until:
        for socket in sockets:
            with ControlClient(socket, timeout_s=LIMIT_S) as client:
                (report,) = client.infer(InferQuery(inputs=("photo",), boards=3, mode="sequence"), [photo])
            assert {board.name for board in report.boards} == all_three
            assert report.attempts == 1
    for socket in sockets:
        assert names(socket) == all_three
        with ControlClient(socket, timeout_s=5) as client:
            assert {member.status for member in client.members()} == {"alive"}
    assert names(stranger) == {"board-4"}
    assert [process.poll() for process in bridged.processes] == [None] * 4


def test_a_daemon_without_a_token_does_not_listen_to_a_lan(bridged: Lan) -> None:
    bridged.board(1)
    (process,) = bridged.processes
    assert process.wait(LIMIT_S) == ExitCode.NOT_ADMITTED
    said = (bridged.folder / "board-1/stderr").read_text()
    assert said.count("\n") == 1
    assert "needs a cluster token" in said
    assert "10.7.0.1:7700" in said
