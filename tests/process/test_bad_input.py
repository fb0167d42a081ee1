"""Fault row B11 against real daemons: one line, the contract's exit code, and the ring serves the next request."""

import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peer.local_ring import LocalBoards, LocalRing, local_ring

pytestmark = pytest.mark.process

PHOTO = Path(__file__).parents[2] / "docs/photos/chelsea.png"
PHOTO_JPEG = PHOTO.with_name("rocket.jpg")
# Python's own start and the photo take about 0.2 s; a picture that is decoded although it must not be takes longer.
PATIENCE_S = 5.0


@pytest.fixture(scope="module")
def ring() -> Iterator[LocalRing]:
    with local_ring(LocalBoards(count=2, threads=1), timeout_s=60) as running:
        yield running


def peerctl(ring: LocalRing, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "peer.cli", *map(str, arguments)]
    environment = {**os.environ, "TOKENRING_SOCKET": str(ring.sockets[0])}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def assert_one_line(done: subprocess.CompletedProcess[str], code: int) -> None:
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("peerctl: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def assert_well(ring: LocalRing) -> None:
    done = peerctl(ring, "infer", PHOTO, "--boards", 2, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["boards"]) == 2
    assert ring.dead() == {}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(path: Path) -> None:
    """A whole and valid PNG of 50,000 x 50,000 one-bit pixels: 300 kB on disk, 312 MB of rows."""
    side, packer = 50_000, zlib.compressobj(1)
    row = bytes(1 + side // 8)
    rows = b"".join(packer.compress(row * 1000) for _ in range(side // 1000)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def cut(path: Path) -> None:
    path.write_bytes(PHOTO_JPEG.read_bytes()[:3000])


def text(path: Path) -> None:
    path.write_text("this is no picture\n" * 100)


def unreadable(path: Path) -> None:
    """A file whose opening fails; root may read any mode, so it gets a link to itself."""
    if os.geteuid() == 0:
        path.symlink_to(path)
    else:
        path.touch(mode=0)


@pytest.mark.parametrize("make", [Path.touch, cut, bomb, text, Path.mkdir, os.mkfifo, unreadable])
def test_a_bad_image_is_one_line_and_5(ring: LocalRing, tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "image.jpg"
    make(path)
    started = time.monotonic()
    done = peerctl(ring, "infer", path)
    assert time.monotonic() - started < PATIENCE_S
    assert_one_line(done, 5)
    assert str(path) in done.stderr
    assert_well(ring)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--boards", "99"], 7),
        (["--codec", "nonsense"], 4),
        (["--model", "nonsense"], 4),
        (["--model", "../vit-cifar10"], 4),
        (["--deadline", "0.001"], 6),
        (["--boards", "0"], 2),
        (["--socket", "/nonexistent"], 3),
    ],
)
def test_what_cannot_be_done_is_one_line_with_the_contracts_code(
    ring: LocalRing, arguments: list[str], code: int
) -> None:
    assert_one_line(peerctl(ring, "infer", PHOTO, *arguments), code)
    assert_well(ring)


def test_bad_images_in_a_folder_do_not_keep_the_good_ones_back(ring: LocalRing, tmp_path: Path) -> None:
    for name, make in (("a.jpg", cut), ("b.jpg", text), ("d.png", Path.touch)):
        make(tmp_path / name)
    (tmp_path / "c.png").write_bytes(PHOTO.read_bytes())
    done = peerctl(ring, "infer", tmp_path, "--json", "--batch", 4)
    assert done.returncode == 5
    assert [Path(json.loads(line)["input"]).name for line in done.stdout.splitlines()] == ["c.png"]
    assert done.stderr.splitlines()[-1] == "peerctl: 3 of 4 inputs failed"
    assert_well(ring)


def test_verify_tells_a_good_model_from_an_unknown_one(ring: LocalRing) -> None:
    done = peerctl(ring, "models", "verify")
    assert done.returncode == 0
    assert "every digest right" in done.stdout
    assert_one_line(peerctl(ring, "models", "verify", "nonsense"), 4)
