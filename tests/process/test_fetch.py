"""A board that comes without a model: it gets the ring's by itself, whatever happens on the way, and takes a share."""

import atexit
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peer.control_client import ControlClient
from peer.errors import PeerError
from peer.local_ring import LocalBoards, LocalRing, local_ring
from peer.reports import FetchReport, InferQuery, StatusReport
from runtime.integrity import open_model, read_plan
from tools.bench.one_more_board import OneMore, one_more, start

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
MODEL = "vit-cifar10"
FOLDER = ROOT / "models_onnx" / MODEL
PHOTO = ROOT / "docs/photos/chelsea.png"
LIMIT_S = 60.0
SOME_BYTES = 3 << 20
PART_BYTES = 256 * 1024
MODEL_BYTES = read_plan(FOLDER).size_bytes
MANIFEST_BYTES = (FOLDER / "manifest.json").stat().st_size


def until(what: str, holds: Callable[[], bool], *, every_s: float = 0.05) -> None:
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end, f"not within {LIMIT_S:g} s: {what}"
        time.sleep(every_s)


def status(board: OneMore) -> StatusReport | None:
    try:
        with ControlClient(board.socket, timeout_s=5) as client:
            return client.status()
    except PeerError:
        return None


def ready(board: OneMore) -> bool:
    report = status(board)
    return report is not None and report.ready


def fetch(board: OneMore) -> FetchReport:
    with ControlClient(board.socket, timeout_s=5) as client:
        return client.fetch(MODEL)


def known(board: OneMore) -> int:
    """Boards that it knows to hold the model."""
    try:
        with ControlClient(board.socket, timeout_s=5) as client:
            return sum(len(model.boards) for model in client.models() if model.name == MODEL)
    except PeerError:
        return 0


def share(ring: LocalRing, board: OneMore, boards: int) -> bool:
    """Ask another board for everybody; whether this one has a part of it."""
    me = status(board)
    assert me is not None
    with ControlClient(ring.sockets[0], timeout_s=LIMIT_S) as client:
        try:
            query = InferQuery(inputs=("photo",), boards=boards, mode="sequence")
            (report,) = client.infer(query, [PHOTO.read_bytes()])
        except PeerError:
            return False
    return any(one.id == me.id for one in report.boards)


def half(board: OneMore) -> int:
    """Bytes of a copy in the making."""
    total = 0
    for file in board.home.glob("models/.partial-*/model/*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            return 0
    return total


def peerctl(board: OneMore, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "peer.cli", *map(str, arguments), "--socket", str(board.socket)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S, cwd=ROOT)


@functools.cache
def only_one_model() -> Path:
    """A folder with the model alone: of several that all hold, which comes first is not this module's subject."""
    folder = Path(tempfile.mkdtemp(prefix="tokenring-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(FOLDER, folder / MODEL)
    return folder


def boards(count: int, models: Path | None = None) -> LocalBoards:
    return LocalBoards(count=count, threads=1, model=MODEL, models=models or only_one_model())


@pytest.fixture(scope="module")
def ring() -> Iterator[LocalRing]:
    with local_ring(boards(3), timeout_s=LIMIT_S) as made:
        yield made


def test_it_gets_the_model_by_itself_and_takes_a_share(ring: LocalRing, tmp_path: Path) -> None:
    with one_more(ring, tmp_path) as fresh:
        until("it serves", lambda: ready(fresh))
        until("it takes a share", lambda: share(ring, fresh, 4))
        report = fetch(fresh)
        assert report.done
        assert report.total_bytes == MODEL_BYTES
        assert report.received_bytes == MODEL_BYTES + MANIFEST_BYTES
        assert report.boards == 3
        assert open_model(tmp_path / "models" / MODEL).model_id == report.model_id
        assert os.listdir(tmp_path / "models") == [MODEL]
        done = peerctl(fresh, "models", "fetch", MODEL)
        assert (done.returncode, done.stderr) == (0, "")
        assert "every digest right" in done.stdout
        done = peerctl(fresh, "models", "verify")
        assert done.returncode == 0
    with one_more(ring, tmp_path) as fresh:
        until("it serves after a restart", lambda: ready(fresh))
        assert fetch(fresh).received_bytes == 0


def test_a_killed_board_goes_on_where_it_was(ring: LocalRing, tmp_path: Path) -> None:
    fresh = start(ring, tmp_path)
    until("some of it is there", lambda: half(fresh) > SOME_BYTES, every_s=0.0005)
    fresh.process.kill()
    fresh.process.wait()
    kept = half(fresh)
    assert SOME_BYTES < kept < MODEL_BYTES, "the transfer was over before the kill"
    with one_more(ring, tmp_path) as fresh:
        until("it serves", lambda: ready(fresh))
        report = fetch(fresh)
    # Holes count in the size of a file, and the part that was being written is not whole.
    assert report.resumed_bytes > SOME_BYTES // 2
    assert report.received_bytes == MODEL_BYTES - report.resumed_bytes
    assert report.resumed_bytes + 10 * PART_BYTES > kept - PART_BYTES


def test_a_holder_that_dies_meanwhile_is_done_without(tmp_path: Path) -> None:
    with local_ring(boards(3), timeout_s=LIMIT_S) as ring, one_more(ring, tmp_path) as fresh:
        until("some of it is there", lambda: half(fresh) > SOME_BYTES, every_s=0.0005)
        os.kill(ring.pids[1], signal.SIGKILL)
        os.kill(ring.pids[2], signal.SIGSTOP)
        try:
            until("it serves", lambda: ready(fresh))
            assert fetch(fresh).done
            until("it takes a share", lambda: share(ring, fresh, 2))
        finally:
            os.kill(ring.pids[2], signal.SIGCONT)


def test_a_holder_with_a_damaged_copy_cannot_poison(ring: LocalRing, tmp_path: Path) -> None:
    bad_home, home = tmp_path / "bad", tmp_path / "fresh"
    home.mkdir()
    shutil.copytree(FOLDER, bad_home / "models" / MODEL)
    with one_more(ring, bad_home) as bad:
        until("the holder serves", lambda: ready(bad))
        weights = bad_home / "models" / MODEL / "weights.bin"
        content = weights.read_bytes()
        # Every part of its largest file, so that whatever it is asked for is wrong. A new file: the old one is mapped.
        weights.unlink()
        weights.write_bytes(bytes(byte ^ 1 for byte in content[: 1 << 20]) + bytes(len(content) - (1 << 20)))
        # Not by itself: it would begin before it has heard of the bad board, which is no seed of its own.
        with one_more(ring, home, ["--default-model", "nobody-has-it"]) as fresh:
            until("it knows every holder", lambda: known(fresh) == 4)
            until("it is fetched", lambda: fetch(fresh).done)
            report = fetch(fresh)
            assert report.received_bytes > MODEL_BYTES + MANIFEST_BYTES  # the damaged file came more than once
            assert open_model(home / "models" / MODEL).name == MODEL
            until("it takes a share", lambda: share(ring, fresh, 4) or share(ring, fresh, 5))


def test_a_board_without_a_model_says_so_and_others_go_on(ring: LocalRing, tmp_path: Path) -> None:
    """It waits for a model by a name that nobody holds."""
    with one_more(ring, tmp_path, ["--default-model", "nobody-has-it"]) as fresh:
        until("it answers", lambda: status(fresh) is not None)
        until("it looked for it", lambda: "no board that is here holds a model nobody-has-it" in fresh.log)
        report = status(fresh)
        assert report is not None
        assert (report.ready, report.models, report.default_model) == (False, 0, None)
        done = peerctl(fresh, "infer", PHOTO)
        assert done.returncode == 4
        assert re.fullmatch(
            r"peerctl: this board has no model yet: .*; ask again later, or another board\n", done.stderr
        )
        for command in ("ring", "models", "members"):
            assert peerctl(fresh, command).returncode == 0
        with ControlClient(ring.sockets[0], timeout_s=5) as client:
            (member,) = [member for member in client.members() if member.id == report.id]
        assert (member.status, member.models) == ("alive", ())
        done = peerctl(fresh, "models", "fetch", "nothing")
        assert done.returncode == 4
        assert "holds a model nothing; they hold vit-cifar10" in done.stderr
        done = peerctl(fresh, "models", "fetch", MODEL)
        assert done.returncode == 0, done.stderr
        assert ready(fresh)
        until("it takes a share", lambda: share(ring, fresh, 4))


def test_models_of_other_boards_are_listed_and_come_on_demand(
    ring: LocalRing, tmp_path: Path, random_model: Path
) -> None:
    """Of a board that has a model of its own, too, and is in no ring with the others because of it."""
    shutil.copytree(random_model / "random", tmp_path / "models/random")
    with one_more(ring, tmp_path) as fresh:
        until("it serves", lambda: ready(fresh))
        with ControlClient(fresh.socket, timeout_s=LIMIT_S) as client:
            until("it sees three holders", lambda: [len(m.boards) for m in client.models() if m.name == MODEL] == [3])
            known = {model.name: model for model in client.models()}
            own, other = known["random"], known[MODEL]
            me = client.status().id
        assert (own.name, own.boards, own.default) == ("random", (me,), True)
        plan = read_plan(FOLDER)
        assert (other.model_id, other.bytes, other.default) == (plan.model_id, MODEL_BYTES, False)
        assert me not in other.boards
        assert MODEL in peerctl(fresh, "models", "show", MODEL).stdout
        done = peerctl(fresh, "models", "fetch", MODEL)
        assert done.returncode == 0, done.stderr
        held = json.loads(peerctl(fresh, "models", "--json").stdout)["models"]
        assert {model["name"] for model in held if me in model["boards"]} == {"random", MODEL}
        until("it takes a share", lambda: share(ring, fresh, 4))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a tiny file system")
def test_a_full_disk_is_one_line_and_room_is_noticed(ring: LocalRing, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", home / "models"]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"may not mount a file system here: {mounted.stderr.strip()}")
    try:
        with one_more(ring, home) as fresh:
            until("it says so", lambda: "make room there" in fresh.log)
            done = peerctl(fresh, "models", "fetch", MODEL)
            assert done.returncode == 4
            assert re.fullmatch(r"peerctl: model .* needs \d+ MB, .* has .* MB free.*make room there.*\n", done.stderr)
            warnings = [line for line in fresh.log.splitlines() if "make room" in line]
            assert len(warnings) == 1
            assert "Traceback" not in fresh.log
            assert share_without(ring)
            # 24 MB hold the model, but not what has to stay free beside it.
            subprocess.run(["mount", "-o", "remount,size=64m", home / "models"], check=True)
            until("it serves", lambda: ready(fresh))
    finally:
        subprocess.run(["umount", "--lazy", home / "models"], check=True)


def share_without(ring: LocalRing) -> bool:
    """The ring answers as ever."""
    with ControlClient(ring.sockets[0], timeout_s=LIMIT_S) as client:
        (report,) = client.infer(InferQuery(inputs=("photo",), boards=3, mode="sequence"), [PHOTO.read_bytes()])
    return len(report.boards) == 3
