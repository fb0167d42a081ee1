"""`peerctl up` with real daemons: the command's exit code, and nothing left behind however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

PHOTO = Path(__file__).parents[2] / "docs/photos/chelsea.png"
LIMIT_S = 60.0


class Up:
    """Starts `peerctl up` with a temporary folder of its own, and sees what is left in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "TMPDIR": str(folder)}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "peer.cli", "up", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=LIMIT_S, env=self.environment
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            # A shell's background job, as a test run may be, has its children ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
        )

    def daemons(self) -> list[int]:
        """Processes whose command line names this folder: the daemons started by this test, and no other."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and f"{self.folder}/tokenring-".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # it has just ended
                continue
        return found

    def assert_nothing_left(self) -> None:
        assert self.daemons() == []
        assert list(self.folder.iterdir()) == []


@pytest.fixture
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("up"))
    yield up
    wait_until(lambda: up.daemons() == [])


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def wait_for_ring(process: subprocess.Popen[str]) -> None:
    """Read what `up` says until the ring is up."""
    assert process.stderr is not None
    for line in process.stderr:
        if "ring" in line:
            return
    pytest.fail("up ended before the ring was there")


def test_the_command_sees_the_ring_and_its_output_is_the_only_one(up: Up) -> None:
    done = up.run("--boards", "2", "--", sys.executable, "-m", "peer.cli", "infer", str(PHOTO), "--boards", "2")
    assert done.returncode == 0
    assert done.stdout.startswith(str(PHOTO))
    assert "board-1 tokens" in done.stdout
    assert "board-2 tokens" in done.stdout
    up.assert_nothing_left()


def test_peerctl_is_found_by_the_command_even_where_the_shell_does_not_know_it(up: Up) -> None:
    up.environment["PATH"] = "/usr/bin:/bin"
    done = up.run("--boards", "1", "--", "peerctl", "ring", "--json")
    assert done.returncode == 0
    assert '"order"' in done.stdout


@pytest.mark.parametrize(("script", "code"), [("exit 42", 42), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_the_exit_code_is_the_commands(up: Up, script: str, code: int) -> None:
    assert up.run("--boards", "1", "--", "sh", "-c", script).returncode == code
    up.assert_nothing_left()


def test_socket_and_token_are_named_and_the_token_is_for_the_owner_only(up: Up) -> None:
    probe = 'stat -c %a "$TOKENRING_TOKEN_FILE"; head -c 4 "$TOKENRING_TOKEN_FILE"; test -S "$TOKENRING_SOCKET"'
    done = up.run("--boards", "1", "--", "sh", "-c", probe)
    assert (done.returncode, done.stdout) == (0, "600\ntr1-")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--model", "nonsense", "--", "true"], 4, "did not start: the default model nonsense"),
        (["--models", "/nonexistent", "--", "true"], 4, "no models folder"),
        (["--timeout", "0.1", "--", "true"], 7, "did not see 2 boards"),
        (["--nonsense"], 2, "--nonsense"),
    ],
)
def test_a_ring_that_does_not_start_is_one_line_and_leaves_nothing(
    up: Up, arguments: list[str], code: int, reason: str
) -> None:
    done = up.run("--boards", "2", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert reason in done.stderr
    assert done.stderr.startswith("peerctl: ")
    assert done.stderr.count("\n") == 1
    up.assert_nothing_left()


def test_a_command_that_does_not_exist_is_wrong_usage(up: Up) -> None:
    done = up.run("--boards", "1", "--", "no-such-command")
    assert done.returncode == 2
    assert "cannot run no-such-command" in done.stderr
    up.assert_nothing_left()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str)
def test_a_ring_that_stays_goes_when_it_is_told(up: Up, number: signal.Signals, code: int) -> None:
    with up.start("--boards", "2") as process:
        wait_for_ring(process)
        assert len(up.daemons()) == 2
        process.send_signal(number)
        assert process.wait(LIMIT_S) == code
    up.assert_nothing_left()


def test_the_command_is_ended_too_when_up_is_told_to_end(up: Up) -> None:
    with up.start("--boards", "1", "--", "sleep", "600") as process:
        wait_for_ring(process)
        process.terminate()
        assert process.wait(LIMIT_S) == 143
    up.assert_nothing_left()


def test_a_signal_while_the_ring_starts_leaves_nothing(up: Up) -> None:
    with up.start("--boards", "3") as process:
        wait_until(lambda: len(up.daemons()) >= 2)
        process.terminate()
        assert process.wait(LIMIT_S) == 143
    up.assert_nothing_left()


def test_the_daemons_end_with_an_up_that_was_killed(up: Up) -> None:
    with up.start("--boards", "2") as process:
        wait_for_ring(process)
        process.kill()
        process.wait(LIMIT_S)
        wait_until(lambda: up.daemons() == [])


def test_a_board_that_ends_is_named_and_the_others_stay(up: Up) -> None:
    with up.start("--boards", "2") as process:
        wait_for_ring(process)
        os.kill(up.daemons()[0], signal.SIGKILL)
        assert process.stderr is not None
        assert "has ended" in process.stderr.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0
    up.assert_nothing_left()
