"""A real ring watched by a person at a terminal, and by Prometheus."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from peer.control_client import ControlClient
from peer.errors import PeerError
from peer.local_ring import LocalBoards, LocalRing, free_port, local_ring
from peer.reports import InferQuery, InferReport, TraceReport
from peer.trace_rounds import rounds
from peer.waterfall import chrome

pytestmark = pytest.mark.process
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def ring(random_model: Path) -> Iterator[LocalRing]:
    with local_ring(LocalBoards(count=1, threads=1, models=random_model), timeout_s=LIMIT_S) as ring:
        yield ring


@pytest.fixture(scope="module")
def watched(ring: LocalRing, random_model: Path) -> Iterator[tuple[Path, str]]:
    """A second board that serves metrics: its control socket, and where they are."""
    home, metrics = ring.folder / "watched", free_port()
    home.mkdir()
    with ControlClient(ring.sockets[0], timeout_s=LIMIT_S) as client:
        seed = client.status().endpoint
    options = {
        "--config": ring.folder / "peerd.toml",
        "--state-dir": home,
        "--socket": home / "sock",
        "--token-file": ring.token_file,
        "--models": random_model,
        "--listen": f"127.0.0.1:{free_port()}",
        "--seed": seed,
        "--name": "watched",
        "--threads": "1",
        "--metrics": str(metrics),
    }
    command = [sys.executable, "-m", "peer.cli_peerd", *(str(part) for pair in options.items() for part in pair)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        wait(lambda: len(order(home / "sock")) == 2)
        yield home / "sock", f"http://127.0.0.1:{metrics}/metrics"
        daemon.terminate()
        assert daemon.stderr is not None
        assert f"metrics on http://127.0.0.1:{metrics}/metrics" in daemon.stderr.read()
    assert daemon.returncode == 0


def wait(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def order(socket: Path) -> tuple[str, ...]:
    try:
        with ControlClient(socket, timeout_s=5) as client:
            return client.ring().order if client.status().ready else ()
    except PeerError:
        return ()


def scrape(place: str) -> dict[str, float]:
    """`name{label=value}` -> value, through Prometheus' own parser."""
    with urllib.request.urlopen(place, timeout=LIMIT_S) as answer:
        page = answer.read().decode()
    return {
        sample.name + "".join(f" {key}={text}" for key, text in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_what_a_request_costs_is_in_the_metrics(watched: tuple[Path, str], pictures: list[bytes]) -> None:
    socket, place = watched
    before = scrape(place)
    with ControlClient(socket, timeout_s=LIMIT_S) as client:
        (other,) = [member.id for member in client.members() if member.name != "watched"]
        wanted = InferQuery(inputs=("a",), boards=2, mode="sequence", codec="f32")
        (report,) = client.infer(wanted, [pictures[0]])
        with pytest.raises(PeerError):
            client.infer(InferQuery(inputs=("a",), boards=9), [pictures[0]])

    sent = f"tokenring_peer_sent_bytes_total peer={other}"
    wait(lambda: scrape(place).get(sent, 0.0) > before.get(sent, 0.0))  # the compute process tells once a second
    after = scrape(place)

    def grown(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    assert grown("tokenring_requests_total mode=sequence") == 1
    assert grown("tokenring_requests_failed_total reason=not-enough-boards") == 1
    assert grown("tokenring_request_seconds_count") == 1
    assert grown("tokenring_request_seconds_sum") == pytest.approx(report.latency_ms / 1e3)
    phases = ("queue", "prepare", "compute", "wait", "network")
    spent = {phase: grown(f"tokenring_request_phase_seconds_sum phase={phase}") for phase in phases}
    assert all(seconds >= 0 for seconds in spent.values())
    assert 0 < spent["compute"] < sum(spent.values()) <= report.latency_ms / 1e3 * 1.001
    assert grown(f"tokenring_peer_rounds_total peer={other}") == report.rounds
    # Everything that this board's shard sent, and the assignment with the other's rows.
    assert report.explain is not None
    (mine,) = [board.sent_bytes for board in report.explain.boards if board.name == "watched"]
    assert grown(sent) >= mine > 0
    assert grown(f"tokenring_peer_received_bytes_total peer={other}") > report.payload_bytes / 2
    assert grown("tokenring_shards_total") == 1
    assert after[f"tokenring_peer_state peer={other} state=alive"] == 1
    assert after["tokenring_members state=alive"] == 2
    assert after["tokenring_ready"] == 1
    assert after["tokenring_memory_bytes process=compute"] > 1e6


def test_a_trace_shows_both_boards_and_who_does_not_answer(
    watched: tuple[Path, str], ring: LocalRing, pictures: list[bytes]
) -> None:
    wanted = InferQuery(inputs=("a",), boards=2, mode="sequence", codec="f32")
    with ControlClient(watched[0], timeout_s=LIMIT_S) as client:
        (report,) = client.infer(wanted, [pictures[0]])
        traced = client.watch.trace(report.request)
        assert client.watch.trace(None).request == report.request
    assert (traced.model, traced.codec, traced.mode) == (report.model, "f32", "sequence")
    mine, theirs = traced.boards
    assert (mine.name, mine.clock_error_ms, theirs.name, theirs.missing) == ("watched", 0.0, "board-1", False)
    kinds = {span.kind for board in traced.boards for span in board.spans}
    assert kinds >= {"queued", "prepare", "encode", "sent", "query", "came", "decode", "attend", "head"}
    for board in traced.boards:
        assert [span.block for span in board.spans if span.kind == "attend"] == list(range(report.rounds))
    # Both run on one machine and so by one clock: what the correction makes of it is wrong by its bound at most.
    found = rounds(traced, attempt=1)
    assert len(found) == 2 * report.rounds
    assert all(0 <= span.start_ms <= report.latency_ms + theirs.clock_error_ms for span in mine.spans)


def test_a_trace_and_the_answer_tell_the_same_times(watched: tuple[Path, str], pictures: list[bytes]) -> None:
    wanted = InferQuery(inputs=("a",), boards=2, mode="sequence", codec="f32")
    differing = []
    with ControlClient(watched[0], timeout_s=LIMIT_S) as client:
        for _ in range(10):  # a busy machine may put a thread aside between the readings for the one and for the other
            (report,) = client.infer(wanted, [pictures[0]])
            differing = _differing(report, client.watch.trace(report.request))
            if not differing:
                return
    pytest.fail(f"none of ten requests agrees with its trace: {differing}")


def _differing(report: InferReport, traced: TraceReport) -> list[str]:
    """Boards of whose encoding or waiting the answer tells something else than the trace."""
    found = rounds(traced, attempt=1)
    assert report.explain is not None
    wrong = []
    for board in report.explain.boards:
        own = [each for each in found if each.board == board.id]
        encode_ms, wait_ms = sum(e.encode_ms for e in own), sum(e.wait_ms + e.network_ms for e in own)
        if abs(encode_ms - board.encode_ms) > 0.05 or abs(wait_ms - board.wait_ms) > 1.0:
            wrong.append(f"{board.name}: encode {encode_ms}, {board.encode_ms}; wait {wait_ms}, {board.wait_ms} ms")
    return wrong
    arrows = [event for event in chrome(traced)["traceEvents"] if event["ph"] in "sf"]  # type: ignore[attr-defined]
    assert len(arrows) == 2 * 2 * report.rounds

    group = os.getpgid(ring.pids[0])
    os.killpg(group, signal.SIGSTOP)
    try:
        wait(lambda: set(states(group)) == {"T"})
        with ControlClient(watched[0], timeout_s=LIMIT_S) as client:
            alone = client.watch.trace(report.request)
    finally:
        os.killpg(group, signal.SIGCONT)
    assert [(board.name, board.missing) for board in alone.boards] == [("watched", False), ("board-1", True)]


def states(group: int) -> list[str]:
    """The kernel's letter for each process of a group: T is stopped."""
    fields = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields.append(place.read_text().rpartition(")")[2].split())
    return [state for state, _, owner, *_ in fields if int(owner) == group]


class Terminal:
    """A program on a pseudo-terminal of 100 columns."""

    def __init__(self, *arguments: str, socket: Path) -> None:
        self.ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        self.before = termios.tcgetattr(theirs)
        environment = {**os.environ, "TOKENRING_SOCKET": str(socket), "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "peer.cli", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
        )
        self._theirs = theirs

    def read_until(self, words: str, times: int = 1) -> str:
        text, until = "", time.monotonic() + LIMIT_S
        while text.count(words) < times:
            ready, _, _ = select.select([self.ours], [], [], until - time.monotonic())
            assert ready, text
            text += os.read(self.ours, 65536).decode("utf-8", "replace")
        return text

    def end(self) -> tuple[int, str]:
        """Exit code and what came last; the terminal must be as it was."""
        code = self.process.wait(LIMIT_S)
        os.set_blocking(self.ours, False)
        try:
            rest = os.read(self.ours, 65536).decode("utf-8", "replace")
        except BlockingIOError:
            rest = ""
        assert termios.tcgetattr(self._theirs) == self.before
        os.close(self.ours)
        os.close(self._theirs)
        return code, rest


@pytest.mark.parametrize(("command", "heading"), [(["top"], "compute ms"), (["members", "--watch"], "endpoint")])
@pytest.mark.parametrize("how", ["q", "SIGINT"])
def test_a_person_watches_until_q_or_ctrl_c(
    watched: tuple[Path, str], command: list[str], heading: str, how: str
) -> None:
    terminal = Terminal(*command, socket=watched[0])
    shown = terminal.read_until(heading, times=2 if how == "q" else 1)
    assert shown.startswith("\x1b[?1049h"), "on a screen of its own"
    if how == "q":
        os.write(terminal.ours, b"q")
    else:
        terminal.process.send_signal(signal.SIGINT)
    code, rest = terminal.end()
    assert code == 0
    assert rest.endswith("\x1b[?1049l"), "and the screen from before is back"
    assert all(len(line) < 400 for line in shown.split("\n"))
