"""A control server on a unix socket with an api that answers from memory, and a way to run `peerctl` against it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_control_daemon import Daemon, FakeApi, Ran

from peer import cli
from peer.control_server import control_server


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A served FakeApi; the fixture fails when its server leaves anything behind."""
    path, api, ready = tmp_path / "run" / "peerd.sock", FakeApi(), threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with control_server(api, path, api):
            ready.set()
            await stop.wait()
        assert len(asyncio.all_tasks()) == 1

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    yield Daemon(socket=path, api=api)
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    assert not thread.is_alive()
    assert not path.exists()


@pytest.fixture
def peerctl(daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run `peerctl ARGUMENTS` in this process against the fake daemon."""
    monkeypatch.setenv("TOKENRING_SOCKET", str(daemon.socket))

    def run(*arguments: object) -> Ran:
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(code=int(code), out=out, err=err)

    return run
