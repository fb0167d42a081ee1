"""Tells systemd how this service is (sd_notify(3)): one datagram per word, on the socket that systemd named.

Without systemd every call does nothing. A word that cannot be sent is dropped: systemd draws its own conclusions from
silence, which is what the watchdog is for.
"""

import contextlib
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

_MICRO = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SdNotify:
    """The way to whoever supervises this process; `socket_name` is None where nobody does."""

    socket_name: str | None = None
    # How long systemd waits for a sign of life once the service is ready; None: for ever.
    watchdog_s: float | None = None

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str], *, pid: int) -> "SdNotify":
        """Read what systemd says, and take it out of the environment: child processes must not speak for this one."""
        name = environ.pop("NOTIFY_SOCKET", "")
        micros, addressee = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = addressee in ("", str(pid)) and micros.isascii() and micros.isdigit() and int(micros) > 0
        return cls(
            socket_name=name if name[:1] in ("/", "@") else None,
            watchdog_s=int(micros) / _MICRO if ours and name else None,
        )

    def ready(self) -> None:
        """The service does what it is for."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """The service ends."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for a person who types `systemctl status`."""
        self._tell(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._tell("WATCHDOG=1")

    def extend_start(self, seconds: float) -> None:
        """The start is getting on, and the next such word comes within `seconds`."""
        self._tell(f"EXTEND_TIMEOUT_USEC={round(seconds * _MICRO)}")

    def _tell(self, words: str) -> None:
        if self.socket_name is None:
            return
        address = f"\0{self.socket_name[1:]}" if self.socket_name.startswith("@") else self.socket_name
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
            way.setblocking(False)
            way.sendto(os.fsencode(words), address)
