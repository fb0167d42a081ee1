"""The daemon's end of the control socket: who may connect, how much may wait, and how a request is carried out.

Guards the daemon against its clients: each frame has a deadline, each length a limit, connections and waiting image
bytes are counted. A client that goes away cancels its request. Decides nothing about boards or models; it asks the
`ControlApi` it was given.
"""

import asyncio
import contextlib
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from peer.control_protocol import (
    MAX_BODY_BYTES,
    MAX_INPUT_NAME,
    MAX_REQUEST_HEADER_BYTES,
    PREFIX_BYTES,
    Header,
    decode_header,
    encode,
    error_fields,
    header_bytes,
)
from peer.control_socket import inode, listen, remove
from peer.errors import BadFrame, Busy, DeadlineExceeded, PeerError, Refused
from peer.records import from_json, to_json
from peer.reports import (
    MAX_REQUESTS,
    ActivityReport,
    ExaminationReport,
    FetchReport,
    ForgetQuery,
    InferQuery,
    InferReport,
    JoinQuery,
    MemberReport,
    ModelReport,
    PlanQuery,
    PlanReport,
    RingReport,
    RotationReport,
    StatusReport,
    TokenReport,
    TraceReport,
    VerifyReport,
)

MAX_CONNECTIONS = 64
# From the first byte of a frame to its last, and for a client to take its answer.
FRAME_DEADLINE_S = 5.0
# A connection that asks nothing makes room for others after this long.
IDLE_DEADLINE_S = 60.0
# Two of the largest requests may wait for the ring at once; a third is refused.
MAX_WAITING_BYTES = 2 * MAX_BODY_BYTES
# What a client is told to wait that found no room at the socket itself.
RETRY_S = 1.0
_MAX_TOP = 1000
_REQUEST = re.compile(r"[0-9a-f]{16}")
_ADMINISTRATION = ("token", "rotate", "join", "leave", "forget", "doctor")

_log = logging.getLogger(__name__)


class ControlApi(Protocol):
    """What the daemon answers; every method raises a PeerError when it cannot, and may be cancelled."""

    async def status(self) -> StatusReport:
        """About this board itself."""

    async def members(self) -> Sequence[MemberReport]:
        """Every board known, this one included."""

    async def ring(self) -> RingReport:
        """The order of the boards and the tokens of each."""

    async def activity(self) -> ActivityReport:
        """What this board did of late, and with whom."""

    async def models(self) -> Sequence[ModelReport]:
        """Models of this board and of the ring."""

    async def verify(self, model: str) -> VerifyReport:
        """Hash the model's folder again; NoSuchModel, or CheckFailed naming the first wrong file."""

    async def fetch(self, model: str) -> FetchReport:
        """Begin to get a model from other boards, or tell how far it is; NotFetched, NoSuchModel when it failed."""

    async def trace(self, request: str | None) -> TraceReport:
        """One request, 16 hexadecimal digits, or the last one, as all its boards saw it; Refused when unknown."""

    async def plan(self, query: PlanQuery) -> PlanReport:
        """Every way to run a request with its predicted latency, and the one that would be taken."""

    async def infer(self, query: InferQuery, images: Sequence[bytes]) -> Sequence[InferReport]:
        """Classify `images` (files as they are on disk) as one batch; one report per image, in order."""


class AdministrationApi(Protocol):
    """What a person may do to the board itself; every method raises a PeerError when it is not granted."""

    async def token(self) -> TokenReport:
        """The cluster's token."""

    async def rotate(self) -> RotationReport:
        """A new token for the whole cluster."""

    async def join(self, query: JoinQuery) -> RotationReport:
        """Take another cluster's token."""

    async def leave(self) -> None:
        """Begin the daemon's orderly end."""

    async def forget(self, query: ForgetQuery) -> RotationReport:
        """Take a board off every list."""

    async def doctor(self) -> ExaminationReport:
        """What can be seen from inside the daemon."""


class ControlServer:
    """Serves one unix socket; `async with control_server(...)` makes it and takes it away."""

    def __init__(self, api: ControlApi, administration: AdministrationApi | None = None) -> None:
        self._api = api
        self._administration = administration
        self._connections = 0
        self._waiting_bytes = 0
        self.refused: Counter[str] = Counter(connections=0, bytes=0)  # clients that found no room, by what was full
        # Connections between two requests, the longest idle first.
        self._idle: dict[asyncio.StreamWriter, None] = {}

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it leaves, stalls, or breaks the protocol."""
        self._connections += 1
        try:
            if self._connections > MAX_CONNECTIONS and not self._hang_up_on_longest_idle():
                self.refused["connections"] += 1
                await _send(writer, error_fields(_busy(f"{MAX_CONNECTIONS} requests are under way")))
                return
            first: bytes | None = b""
            while first is not None:
                first = await self._serve_frame(first, reader, writer)
        except PeerError as exc:
            # What follows in the stream has no meaning after a broken frame: say so, and hang up.
            _log.debug("control client: %s", exc)
            with contextlib.suppress(OSError):
                await _send(writer, error_fields(exc))
        except (OSError, EOFError) as exc:
            _log.debug("control client went away: %r", exc)
        finally:
            self._connections -= 1
            self._idle.pop(writer, None)
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()
            else:
                writer.close()

    def _hang_up_on_longest_idle(self) -> bool:
        """Make room by closing the connection that has asked nothing for longest; False when all are busy."""
        longest = next(iter(self._idle), None)
        if longest is None:
            return False
        del self._idle[longest]
        # It may be about to ask: then this is its answer, and tells it to come again.
        longest.writelines(encode(error_fields(_busy(f"{MAX_CONNECTIONS} clients are connected"))))
        longest.close()
        return True

    async def _serve_frame(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """Read and answer one frame that begins with `first`; the next one's first byte, or None at the end."""
        if not first:
            self._idle[writer] = None
            async with asyncio.timeout(IDLE_DEADLINE_S):
                first = await reader.read(1)
            self._idle.pop(writer, None)
            if not first:
                return None
        async with contextlib.AsyncExitStack() as request:
            try:
                async with asyncio.timeout(FRAME_DEADLINE_S):
                    header, blobs = await request.enter_async_context(self._frame(first, reader))
            except TimeoutError as exc:
                raise DeadlineExceeded(f"a frame took longer than {FRAME_DEADLINE_S:g} s; send it in one go") from exc
            following, answer = await self._answer_while_listening(header, blobs, reader)
            await _send(writer, answer)
        return following

    @contextlib.asynccontextmanager
    async def _frame(self, first: bytes, reader: asyncio.StreamReader) -> AsyncIterator[tuple[Header, Sequence[bytes]]]:
        """One request's header and images; its bytes count as waiting until the block ends."""
        prefix = first + await reader.readexactly(PREFIX_BYTES - len(first))
        header = decode_header(await reader.readexactly(header_bytes(prefix, limit_bytes=MAX_REQUEST_HEADER_BYTES)))
        if self._waiting_bytes + header.body_bytes > MAX_WAITING_BYTES:
            self.refused["bytes"] += 1
            raise _busy("too many images wait for this daemon")
        self._waiting_bytes += header.body_bytes
        try:
            yield header, [await reader.readexactly(count) for count in header.blob_bytes]
        finally:
            self._waiting_bytes -= header.body_bytes

    async def _answer_while_listening(
        self, header: Header, blobs: Sequence[bytes], reader: asyncio.StreamReader
    ) -> tuple[bytes | None, Mapping[str, object]]:
        """The answer, and the next frame's first byte if it came early; a client that hangs up cancels the request."""
        answer = asyncio.ensure_future(self._answer(header, blobs))
        listen = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((answer, listen), return_when=asyncio.FIRST_COMPLETED)
            if listen.done() and not listen.result():
                raise EOFError("the client left before its answer")
            return (listen.result() if listen.done() else b""), await answer
        finally:
            answer.cancel()
            listen.cancel()
            await asyncio.gather(answer, listen, return_exceptions=True)

    async def _answer(self, header: Header, blobs: Sequence[bytes]) -> Mapping[str, object]:
        try:
            return {"ok": True, **await self._carry_out(header.fields, blobs)}
        except PeerError as exc:
            return error_fields(exc)
        except Exception:  # noqa: BLE001 - one request's surprise must not take the daemon along; it is logged whole
            _log.exception("control request failed unexpectedly")
            return error_fields(PeerError("the daemon made a mistake; its log has the details"))

    async def _carry_out(self, fields: Mapping[str, Any], blobs: Sequence[bytes]) -> Mapping[str, object]:
        # Any: JSON values as they came; each operation checks its own.
        operation, arguments = fields.get("op"), {key: value for key, value in fields.items() if key != "op"}
        if operation == "infer":
            query = from_json(InferQuery, arguments, strict=True, where="infer")
            check_query(query, len(blobs))
            return {"results": to_json(await self._api.infer(query, blobs))}
        if blobs:
            raise BadFrame("only infer takes images")
        if self._administration is not None and operation in _ADMINISTRATION:
            return await _administer(self._administration, str(operation), arguments)
        if operation == "plan":
            return dict(to_json(await self._api.plan(from_json(PlanQuery, arguments, strict=True, where="plan"))))
        if operation in ("verify", "fetch"):
            model = arguments.pop("model", None)
            if not isinstance(model, str) or not 0 < len(model) <= MAX_INPUT_NAME or arguments:
                raise BadFrame(f"{operation} takes the name of one model")
            return dict(to_json(await (self._api.verify if operation == "verify" else self._api.fetch)(model)))
        if operation == "trace":
            return dict(to_json(await self._api.trace(_request(arguments))))
        if arguments:
            raise BadFrame(f"unknown field {str(next(iter(arguments)))[:80]!r}")
        match operation:
            case "status":
                return dict(to_json(await self._api.status()))
            case "members":
                return {"members": to_json(await self._api.members())}
            case "ring":
                return dict(to_json(await self._api.ring()))
            case "activity":
                return dict(to_json(await self._api.activity()))
            case "models":
                return {"models": to_json(await self._api.models())}
            case _:
                raise BadFrame(f"unknown operation {str(operation)[:80]!r}; is peerctl of another version?")


def _request(arguments: Mapping[str, Any]) -> str | None:  # Any: as in _carry_out
    request = arguments.get("request")
    if set(arguments) - {"request"} or (request is not None and not isinstance(request, str)):
        raise BadFrame("trace takes one request, or none")
    if request is not None and not _REQUEST.fullmatch(request):
        raise Refused(f"{request[:40]!r} is no request; give the 16 digits that peerctl infer --json calls request")
    return request


def _busy(what: str) -> Busy:
    return Busy(f"{what}; try again in {RETRY_S:g} s, or ask another board", RETRY_S)


async def _administer(
    api: AdministrationApi, operation: str, arguments: Mapping[str, Any]
) -> Mapping[str, object]:  # Any: as in _carry_out
    if operation == "join":
        return dict(to_json(await api.join(from_json(JoinQuery, arguments, strict=True, where="join"))))
    if operation == "forget":
        return dict(to_json(await api.forget(from_json(ForgetQuery, arguments, strict=True, where="forget"))))
    if arguments:
        raise BadFrame(f"unknown field {str(next(iter(arguments)))[:80]!r}")
    match operation:
        case "token":
            return dict(to_json(await api.token()))
        case "rotate":
            return dict(to_json(await api.rotate()))
        case "doctor":
            return dict(to_json(await api.doctor()))
        case _:
            await api.leave()
            return {}


def check_query(query: InferQuery, images: int) -> None:
    """Refuse what no model could answer; BadFrame or Refused."""
    if not query.inputs or len(query.inputs) != images:
        raise BadFrame(f"{len(query.inputs)} names for {images} images")
    if query.boards is not None and query.boards < 1:
        raise Refused(f"{query.boards} boards cannot run a model; ask for 1 or more")
    if not 1 <= query.top <= _MAX_TOP:
        raise Refused(f"top {query.top} is not between 1 and {_MAX_TOP}")
    if not 1 <= query.requests <= MAX_REQUESTS:
        raise Refused(f"ask with 1 to {MAX_REQUESTS} requests under way, this one among them")
    if query.mode not in ("auto", "single", "sequence"):
        raise Refused(f"unknown mode {query.mode[:80]!r}; take auto, single or sequence")
    if query.exchange not in (None, "ring", "direct"):
        raise Refused(f"unknown exchange {query.exchange[:80]!r}; take ring or direct")
    if query.deadline_s is not None and query.deadline_s <= 0:
        raise Refused("the deadline must be later than now")


@contextlib.asynccontextmanager
async def control_server(
    api: ControlApi, path: Path, administration: AdministrationApi | None = None
) -> AsyncIterator[ControlServer]:
    """Serve `api` on the unix socket `path` while the block runs; ConfigError when another daemon answers there."""
    listener = listen(path)
    ours = inode(path)
    server = ControlServer(api, administration)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(server.serve_connection(reader, writer), name="control-client")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    serving = await asyncio.start_unix_server(accept, sock=listener)
    try:
        yield server
    finally:
        serving.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        remove(path, ours)


async def _send(writer: asyncio.StreamWriter, fields: Mapping[str, object]) -> None:
    writer.writelines(encode(fields))
    async with asyncio.timeout(FRAME_DEADLINE_S):
        await writer.drain()
