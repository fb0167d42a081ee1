"""The responder on a socket: what it answers, and that nobody can make it wait, read or hold much."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from peer import metrics_server as module
from peer.errors import ConfigError
from peer.metrics_server import MAX_CONNECTIONS, MAX_REQUEST_BYTES, metrics_server


async def page() -> str:
    return "tokenring_up 1\n"


@asynccontextmanager
async def serving(write: Callable[[], Awaitable[str]] = page) -> AsyncIterator[int]:
    async with metrics_server("127.0.0.1", 0, write) as port:
        yield port


async def ask(port: int, request: bytes, *, end: bool = False) -> tuple[int, str]:
    """Status and the whole answer; the connection must be closed by the other end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    if end:
        writer.write_eof()
    async with asyncio.timeout(10):
        answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return int(answer.split(" ")[1]) if answer else 0, answer


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200, "\r\n\r\ntokenring_up 1\n"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", 200, "text/plain; version=0.0.4"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", 200, "Content-Length: 15"),
        (b"GET / HTTP/1.1\r\n\r\n", 404, "only /metrics is here"),
        (b"GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n", 404, "only /metrics is here"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405, "Allow: GET, HEAD"),
        (b"GET /metrics\r\n\r\n", 400, "no HTTP/1.1 request"),
        (b"\x16\x03\x01\r\n\r\n", 400, "no HTTP/1.1 request"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * MAX_REQUEST_BYTES + b"\r\n\r\n", 431, "too long"),
    ],
)
async def test_what_is_answered(request_: bytes, status: int, words: str) -> None:
    async with serving() as port:
        code, answer = await ask(port, request_)
    assert code == status
    assert words in answer
    assert "Connection: close" in answer
    assert ("tokenring_up" in answer) == (status == 200 and not request_.startswith(b"HEAD"))


async def test_a_request_that_ends_early_is_told_so() -> None:
    async with serving() as port:
        assert (await ask(port, b"GET /met", end=True))[0] == 400


async def test_who_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.05)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\n")
        async with asyncio.timeout(10):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()
        assert (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == 200


async def test_more_connections_than_allowed_are_refused_and_room_comes_back() -> None:
    async with serving() as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
        assert (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == 503
        idle += [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(module.DEADLINE_S / 2):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        writer.close()
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(10):
            while (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] != 200:
                pass


async def test_a_page_that_fails_is_no_end_of_the_server() -> None:
    async def broken() -> str:
        raise ZeroDivisionError("a secret detail")

    async with serving(broken) as port:
        code, answer = await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert code == 500
        assert "secret" not in answer


async def test_an_address_that_is_taken_is_one_line_with_the_remedy() -> None:
    async with serving() as port:
        with pytest.raises(ConfigError, match=r"cannot serve metrics on .*choose another address with --metrics"):
            async with metrics_server("127.0.0.1", port, page):
                pass
