"""`peerctl` goes on at another board when the one it asked is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from peer.local_ring import LocalBoards, local_ring

PHOTO = Path(__file__).parents[2] / "docs/photos/chelsea.png"
PICTURES = 12


def test_a_folder_is_finished_though_the_asked_board_is_killed(tmp_path: Path) -> None:
    for number in range(PICTURES):
        shutil.copy(PHOTO, tmp_path / f"{number:02}.png")
    with local_ring(LocalBoards(count=3, threads=1), timeout_s=60) as ring:
        first, *others = map(str, ring.sockets)
        environment = {**os.environ, "TOKENRING_SOCKET": first, "TOKENRING_OTHER_SOCKETS": ":".join(others)}
        command = [
            sys.executable,
            "-m",
            "peer.cli",
            "infer",
            str(tmp_path),
            "--mode",
            "sequence",
            "--codec",
            "f32",
            "--json",
        ]
        with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            os.kill(ring.pids[0], signal.SIGKILL)
            out, err = process.communicate(timeout=60)
        answers = [json.loads(line) for line in [*lines, *out.splitlines()]]
    assert process.returncode == 0, err
    assert [Path(answer["input"]).name for answer in answers] == [f"{number:02}.png" for number in range(PICTURES)]
    assert len({answer["top"][0]["label"] for answer in answers}) == 1
    assert f"asking {others[0]}" in err
    assert err.count("\n") == 1
