"""A switch of user space, for what the kernel's bridge cannot do: frames that are late, overtaken, doubled, or one-way.

    with wired_lan(3, seed=7) as (boards, wire):
        wire.set(delay_s=0.05, jitter=0.5, loss=0.05, doubled=0.01, reordered=0.1)
        wire.set(cut=[(0, 2)])      # board 2 does not hear board 0 any more; all else is as at the start
        wire.set()                  # a good wire

`eth0` of every board is a TAP device; one process of its own holds their other ends and passes the frames on. What
becomes of the n-th frame from one board to another depends on the seed and the conditions alone. It carries some 200
Mbit/s in all, and a timer of it is up to a millisecond late; rates are for token buckets on real cables (`Lan.rate`).
"""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from tests.helpers.lan import Board, Lan, Namespace, lan

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_LARGEST_FRAME_BYTES = 2048  # of an Ethernet with an MTU of 1500
_HELD_BACK_S = 0.003  # a frame that is overtaken waits this much longer, or its delay once more
_PRIORITY = -15  # a switch is not one more process of a busy board


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The wire's state, the same for all directions but `cut`.

    `jitter`: a frame takes `delay_s`, up to this share less or more, and does not overtake those before it;
    `loss`, `doubled`, `reordered`: shares of the frames, 0 to 1, that are lost, come twice, or are overtaken.
    """

    delay_s: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    doubled: float = 0.0
    reordered: float = 0.0
    cut: tuple[tuple[int, int], ...] = ()  # (from, to), counted from 0


class Direction:
    """The way from one board to another: when each frame arrives, and how often."""

    def __init__(self, seed: int, source: int, target: int) -> None:
        self._way = (source, target)
        self._random = random.Random(f"{seed} {source} {target}")
        self._last_at = 0.0  # arrival of the last one in order

    def arrivals(self, conditions: Conditions, now: float) -> tuple[float, ...]:
        """When the next frame, sent `now`, arrives; seconds of the same clock. Empty: never."""
        # As many numbers for each frame as could be needed: the fate of one does not hang on that of others.
        lost, doubled, reordered, late = (self._random.random() for _ in range(4))
        if self._way in conditions.cut or lost < conditions.loss:
            return ()
        due = now + conditions.delay_s * (1 + conditions.jitter * (2 * late - 1))
        behind = due + max(_HELD_BACK_S, conditions.delay_s)
        if reordered < conditions.reordered:
            return (behind,)
        self._last_at = due = max(due, self._last_at)
        return (due, max(behind, due)) if doubled < conditions.doubled else (due,)


class Switch:
    """Passes frames between TAP devices; inside an event loop."""

    def __init__(self, taps: Sequence[int], seed: int) -> None:
        self.conditions = Conditions()
        self._taps = taps
        self._ways = {(s, t): Direction(seed, s, t) for s in range(len(taps)) for t in range(len(taps)) if s != t}
        self._port_of: dict[bytes, int] = {}  # by hardware address, as learnt
        self._loop = asyncio.get_running_loop()
        for port, tap in enumerate(taps):
            self._loop.add_reader(tap, self._read, port)

    def _read(self, port: int) -> None:
        with contextlib.suppress(OSError):  # none left, or the board is gone
            while frame := os.read(self._taps[port], _LARGEST_FRAME_BYTES):
                self._port_of[frame[6:12]] = port
                known = None if frame[0] & 1 else self._port_of.get(frame[:6])
                for target in range(len(self._taps)) if known is None else (known,):
                    if target != port:
                        self._pass_on(port, target, frame)

    def _pass_on(self, port: int, target: int, frame: bytes) -> None:
        now = self._loop.time()
        for at in self._ways[port, target].arrivals(self.conditions, now):
            if at <= now:
                self._write(target, frame)
            else:
                self._loop.call_at(at, self._write, target, frame)

    def _write(self, target: int, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # its interface is down, or gone
            os.write(self._taps[target], frame)


class Wire:
    """The switch of a LAN as its tests see it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._process: subprocess.Popen[str] | None = None

    def join(self, switch: Namespace, boards: Sequence[Board]) -> None:
        """Give every board an `eth0` that ends in a new process."""
        command = [sys.executable, "-m", __name__, self._seed, *(board.pid for board in boards)]
        self._process = subprocess.Popen(switch.command(command), stdin=-1, stdout=-1, text=True)
        self._answered()

    def set(self, *, cut: Iterable[tuple[int, int]] = (), **conditions: float) -> None:
        """From now on the wire is like this, whatever it was before; fields of `Conditions`."""
        told = asdict(Conditions(cut=tuple(cut), **conditions))
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        self._answered()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _answered(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the switch ended"


@contextmanager
def wired_lan(count: int, *, seed: int, ipv6: bool = True) -> Iterator[tuple[Lan, Wire]]:
    """`count` boards on one network whose wire can be bad; cables, rates and splits of `Lan` are not for it."""
    wire = Wire(seed)
    try:
        with lan(count, ipv6=ipv6, join=wire.join) as boards:
            yield boards, wire
    finally:
        wire.close()


def _tap(index: int, namespace: int) -> int:
    """A TAP device that is `eth0` of a process's network; the descriptor of its other end."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"port{index}"
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "netns", str(namespace), "name", "eth0"], check=True)
    return tap


async def _main(seed: int, namespaces: Sequence[int]) -> None:
    with contextlib.suppress(OSError):
        os.nice(_PRIORITY)
    switch = Switch([_tap(index, namespace) for index, namespace in enumerate(namespaces)], seed)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print("ready", flush=True)
    while line := await orders.readline():
        told = json.loads(line)
        switch.conditions = Conditions(**{**told, "cut": tuple((s, t) for s, t in told["cut"])})
        print("set", flush=True)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), [int(pid) for pid in sys.argv[2:]]))
