"""What a daemon tells its supervisor: the other end of sd_notify(3)."""

import socket
import time
from pathlib import Path


class NotifySocket:
    """The socket that NOTIFY_SOCKET names. It hears what came since it was last asked, and what comes."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def hears(self, word: str, *, within_s: float) -> bool:
        """Whether the daemon says it in that time."""
        until = time.monotonic() + within_s
        while (left_s := until - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                if word in self._socket.recv(4096).decode():
                    return True
            except TimeoutError:
                break
        return False

    def forget(self) -> None:
        """What has come so far."""
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        self._socket.close()
