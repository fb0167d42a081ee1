"""GET /metrics over HTTP/1.1, and nothing else: one request per connection, every length and wait bounded.

There is no TLS and nobody is asked who he is: it belongs on loopback or behind a proxy, and says nothing secret.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus

from peer.errors import ConfigError
from peer.metrics_text import CONTENT_TYPE

MAX_REQUEST_BYTES = 8 * 1024
MAX_CONNECTIONS = 8  # as many again are told so; from more on none is listened to
DEADLINE_S = 5.0
_PLAIN = "text/plain; charset=utf-8"

_log = logging.getLogger(__name__)


class MetricsServer:
    """Answers scrapes with what `page` writes."""

    def __init__(self, page: Callable[[], Awaitable[str]]) -> None:
        self._page = page
        self._connections = 0

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, answer it, hang up."""
        self._connections += 1
        try:
            async with asyncio.timeout(DEADLINE_S):
                writer.write(await self._response(reader))
                writer.close()
                await writer.wait_closed()  # a slow reader is waited for, until the time is over
        except (TimeoutError, OSError) as problem:
            _log.debug("metrics client: %r", problem)
        finally:
            self._connections -= 1
            writer.transport.abort()

    async def _response(self, reader: asyncio.StreamReader) -> bytes:
        busy = self._connections > MAX_CONNECTIONS
        if self._connections > 2 * MAX_CONNECTIONS:
            raise ConnectionRefusedError("far too many connections")
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too long\n")
        except asyncio.IncompleteReadError:
            return _response(HTTPStatus.BAD_REQUEST, "the request ended too early\n")
        if busy:
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; scrape less often\n")
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request\n")
        method, target, _ = words
        if target.partition(b"?")[0] != b"/metrics":
            return _response(HTTPStatus.NOT_FOUND, "only /metrics is here\n")
        if method not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is answered\n", extra="Allow: GET, HEAD\r\n")
        try:
            body = await self._page()
        except Exception:  # noqa: BLE001 - a scrape that fails must not take the daemon along; it is logged whole
            _log.exception("the metrics could not be written")
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR, "the log has the details\n")
        return _response(HTTPStatus.OK, body, kind=CONTENT_TYPE, head_only=method == b"HEAD")


def _response(status: HTTPStatus, body: str, *, kind: str = _PLAIN, extra: str = "", head_only: bool = False) -> bytes:
    data = body.encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
        f"Cache-Control: no-store\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if head_only else data)


@contextlib.asynccontextmanager
async def metrics_server(host: str, port: int, page: Callable[[], Awaitable[str]]) -> AsyncIterator[int]:
    """Serve while the block runs; gives the port. ConfigError when it cannot be listened on."""
    server = MetricsServer(page)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(server.serve_connection(reader, writer), name="metrics-client")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    try:
        serving = await asyncio.start_server(accept, host, port, limit=MAX_REQUEST_BYTES)
    except OSError as problem:
        raise ConfigError(
            f"cannot serve metrics on {host}:{port} ({problem.strerror}); choose another address with --metrics"
        ) from problem
    try:
        yield int(serving.sockets[0].getsockname()[1])
    finally:
        serving.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
