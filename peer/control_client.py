"""A blocking client of the control socket, for `peerctl` and for tests; stdlib only, no threads.

One client is one connection; it asks one thing at a time. Every wait is under one deadline per question.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from peer.control_protocol import (
    MAX_REQUEST_HEADER_BYTES,
    MAX_RESPONSE_HEADER_BYTES,
    PREFIX_BYTES,
    decode_header,
    encode,
    header_bytes,
    result_fields,
)
from peer.errors import BadFrame, DeadlineExceeded, HungUp, NoDaemon, Refused
from peer.records import from_json, to_json
from peer.reports import (
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

# A full queue of waiting clients empties within milliseconds on a living daemon.
_RETRY_S = 0.05


class Watch:
    """What those ask who only look on."""

    def __init__(self, ask: Callable[[Mapping[str, object]], Mapping[str, Any]]) -> None:
        self._ask = ask

    def activity(self) -> ActivityReport:
        """What the daemon did of late."""
        return from_json(ActivityReport, self._ask({"op": "activity"}), where="activity")

    def trace(self, request: str | None) -> TraceReport:
        """One request, or the last one, as all its boards saw it."""
        fields = {"op": "trace"} if request is None else {"op": "trace", "request": request}
        return from_json(TraceReport, self._ask(fields), where="trace")


class ControlClient:
    """A connection to one daemon; opened by the first question, closed by the `with` block."""

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self.watch = Watch(self._ask)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; a question under way is cancelled by the daemon."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def status(self) -> StatusReport:
        """About the daemon itself."""
        return from_json(StatusReport, self._ask({"op": "status"}), where="status")

    def members(self) -> tuple[MemberReport, ...]:
        """Every board it knows."""
        return _records(MemberReport, self._ask({"op": "members"}).get("members"), "members")

    def ring(self) -> RingReport:
        """The order of the boards."""
        return from_json(RingReport, self._ask({"op": "ring"}), where="ring")

    def models(self) -> tuple[ModelReport, ...]:
        """Models on the board and on the ring."""
        return _records(ModelReport, self._ask({"op": "models"}).get("models"), "models")

    def verify(self, model: str) -> VerifyReport:
        """Have the model's folder hashed again."""
        return from_json(VerifyReport, self._ask({"op": "verify", "model": model}), where="verify")

    def fetch(self, model: str) -> FetchReport:
        """Have a model fetched from other boards, or ask how far it is."""
        return from_json(FetchReport, self._ask({"op": "fetch", "model": model}), where="fetch")

    def infer(self, query: InferQuery, images: Sequence[bytes]) -> tuple[InferReport, ...]:
        """Classify images as one batch; one report per image."""
        answer = self._ask({"op": "infer", **to_json(query)}, images)
        reports = _records(InferReport, answer.get("results"), "results")
        if len(reports) != len(images):
            raise BadFrame(f"the daemon answered {len(reports)} results for {len(images)} images")
        return reports

    def plan(self, query: PlanQuery) -> PlanReport:
        """How a request would be run, and what every way would take."""
        return from_json(PlanReport, self._ask({"op": "plan", **to_json(query)}), where="plan")

    def token(self) -> TokenReport:
        """The cluster's token."""
        return from_json(TokenReport, self._ask({"op": "token"}), where="token")

    def rotate(self) -> RotationReport:
        """Give the cluster a new token."""
        return from_json(RotationReport, self._ask({"op": "rotate"}), where="rotate")

    def join(self, query: JoinQuery) -> RotationReport:
        """Give the daemon another cluster's token."""
        return from_json(RotationReport, self._ask({"op": "join", **to_json(query)}), where="join")

    def forget(self, query: ForgetQuery) -> RotationReport:
        """Take a board off every list."""
        return from_json(RotationReport, self._ask({"op": "forget", **to_json(query)}), where="forget")

    def leave(self) -> None:
        """Tell the daemon to go; it answers before it does."""
        self._ask({"op": "leave"})

    def doctor(self) -> ExaminationReport:
        """What the daemon finds in itself."""
        return from_json(ExaminationReport, self._ask({"op": "doctor"}), where="doctor")

    def _ask(self, fields: Mapping[str, object], blobs: Sequence[bytes] = ()) -> Mapping[str, Any]:
        # Any: JSON values; from_json checks them.
        frame = encode(fields, blobs, limit_bytes=MAX_REQUEST_HEADER_BYTES)
        until = time.monotonic() + self._timeout_s
        if self._socket is None:
            self._socket = self._connect(until)
        answered = False
        try:
            # A daemon that refuses a request may hang up before it has read all of it: its answer still waits here.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for buffer in frame:
                    self._socket.settimeout(_left(until))
                    self._socket.sendall(buffer)
            prefix = self._receive(PREFIX_BYTES, until)
            header = decode_header(self._receive(header_bytes(prefix, limit_bytes=MAX_RESPONSE_HEADER_BYTES), until))
            answered = not header.body_bytes
        except TimeoutError as exc:
            raise DeadlineExceeded(f"no answer within {self._timeout_s:g} s; give more with --timeout") from exc
        except OSError as exc:
            raise HungUp(f"the daemon hung up: {exc.strerror or exc}; see its log") from exc
        finally:
            if not answered:
                self.close()
        return result_fields(header)

    def _connect(self, until: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            while True:
                connection.settimeout(_left(until))
                try:
                    connection.connect(os.fspath(self._path))
                except BlockingIOError:
                    time.sleep(min(_RETRY_S, _left(until)))
                else:
                    return connection
        except TimeoutError as exc:
            connection.close()
            raise NoDaemon(f"the daemon on {self._path} does not take calls; is it stopped or overloaded?") from exc
        except PermissionError as exc:
            connection.close()
            raise Refused(f"you may not use {self._path}; join its group, or name your own with --socket") from exc
        except OSError as exc:
            connection.close()
            raise NoDaemon(f"no daemon answers on {self._path}; start peerd, or name another with --socket") from exc

    def _receive(self, count: int, until: float) -> bytes:
        connection = self._socket
        if connection is None:
            raise NoDaemon("the connection is closed")
        data = bytearray()
        while len(data) < count:
            connection.settimeout(_left(until))
            part = connection.recv(min(count - len(data), 1 << 20))
            if not part:
                raise HungUp("the daemon hung up before it answered; see its log")
            data += part
        return bytes(data)


def _left(until: float) -> float:
    """Seconds until the deadline, TimeoutError past it; never 0, which would mean "do not block"."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _records(kind: type[Any], value: object, where: str) -> tuple[Any, ...]:  # Any: the records of `kind`
    if not isinstance(value, list):
        raise BadFrame(f"the daemon's answer lacks {where}; is it of another version?")
    return tuple(from_json(kind, item, where=where) for item in value)
