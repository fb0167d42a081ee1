"""Log records for the systemd journal: with fields of their own where its socket is, with `<3>` prefixes otherwise.

A record may name a board and a request (`extra={"peer": ..., "request": ...}`); the journal then finds every line of
one request with `journalctl REQUEST_ID=...`. The protocol is that of systemd.io/JOURNAL_NATIVE_PROTOCOL.
"""

import logging
import os
import socket
import struct
from collections.abc import Mapping
from typing import IO

SOCKET = "/run/systemd/journal/socket"
_FIELDS = {"peer": "PEER_ID", "request": "REQUEST_ID"}
# A datagram has to fit into the socket's buffer; no line of ours comes near, a traceback might.
_LONGEST_BYTES = 32 << 10
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def goes_to_journal(environ: Mapping[str, str], stream: IO[str]) -> bool:
    """Whether what is written to `stream` lands in the journal (JOURNAL_STREAM of systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return False  # closed, or no file at all
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def priority(level: int) -> int:
    """The syslog priority of a level of `logging`."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


class PrefixFormatter(logging.Formatter):
    """`<4>text`: what systemd reads a priority from; each line of a text has its own."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{priority(record.levelno)}>"
        return prefix + super().format(record).replace("\n", f"\n{prefix}")


class JournalHandler(logging.Handler):
    """Sends each record as one datagram; falls back to `otherwise` when the journal does not take it."""

    def __init__(self, otherwise: logging.Handler, path: str = SOCKET) -> None:
        """Raises OSError where there is no journal."""
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # the rest has fields of its own
        self._otherwise = otherwise
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)  # a full journal must not hold up the event loop

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(priority(record.levelno)),
            "SYSLOG_IDENTIFIER": "peerd",
            "LOGGER": record.name,
        }
        for attribute, name in _FIELDS.items():
            value = getattr(record, attribute, None)
            if value is not None:
                fields[name] = str(value)
        try:
            self._socket.send(encode(fields))
        except OSError:
            self._otherwise.handle(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def encode(fields: Mapping[str, str]) -> bytes:
    """One entry: `NAME=value` lines, or the name, a length and the bytes where the value has line breaks."""
    entry = bytearray()
    for name, text in fields.items():
        value = text.encode("utf-8", "backslashreplace")[:_LONGEST_BYTES]
        if b"\n" in value:
            entry += name.encode("ascii") + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            entry += name.encode("ascii") + b"=" + value + b"\n"
    return bytes(entry)
