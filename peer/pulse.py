"""Since when the compute process has been in its current step: one number in memory that two processes share.

Asking the other process would tell nothing: what is to be noticed is that it does not answer.
"""

import mmap
import os
import struct
import time

_NUMBER = struct.Struct("d")
_IDLE = 0.0


class Pulse:
    """Written by the thread that computes, read by the daemon; a torn value does no harm."""

    def __init__(self, descriptor: int | None = None) -> None:
        """`descriptor`: of a pulse that another process made and handed down; None makes a new one."""
        self.descriptor = os.memfd_create("pulse") if descriptor is None else descriptor
        os.ftruncate(self.descriptor, mmap.PAGESIZE)
        self._memory = mmap.mmap(self.descriptor, mmap.PAGESIZE)

    def begin(self) -> None:
        """A step begins."""
        _NUMBER.pack_into(self._memory, 0, time.monotonic())

    def end(self) -> None:
        """Nothing is being computed."""
        _NUMBER.pack_into(self._memory, 0, _IDLE)

    def stuck_s(self) -> float:
        """How long the current step has lasted, seconds; 0 when there is none. Monotonic clocks are the machine's."""
        (since,) = _NUMBER.unpack_from(self._memory, 0)
        return 0.0 if since == _IDLE else max(0.0, time.monotonic() - since)

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)
