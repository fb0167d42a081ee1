"""What a round costs when nothing is computed: four processes on loopback, 1 KB payloads, null compute.

    python -m tools.bench.round_overhead [--boards 4] [--bytes 1024] [--rounds 400] [--repeat 5] [--json]

Measures side by side, interleaved in one run: the data plane's `direct` and `ring` schedules (real sockets, real
request machine, real wire format, compute that returns at once), with and without CURVE, against the same exchange
written with bare blocking pyzmq and with pyzmq's asyncio sockets. A round: every board sends its payload to every other
one and has everybody's. p50 and p95 are over rounds as board 0 sees them. `--where` adds, from a run of its own,
where the microseconds of a direct round go on board 0 (the stopwatches themselves cost about 0.3 us a call), and what
the marks of a trace cost: processor time with and without them, in turns.
"""

import argparse
import asyncio
import itertools
import json
import math
import multiprocessing
import multiprocessing.synchronize
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import zmq
import zmq.asyncio

from peer.data_plane import DataPlane
from peer.protocol import wire
from peer.protocol.effects import Attend, Begin, Deliver, Forget, Query, RunErrand, RunHead, RunWhole
from peer.protocol.events import (
    AnswerFailed,
    CodesReady,
    Event,
    LogitsReady,
    Mode,
    QueryDone,
    ShardDone,
    Submission,
    Submitted,
    ViewChanged,
)
from peer.protocol.requests import RequestLimits, Requests
from peer.protocol.span import SpanKind
from peer.protocol.spans import Mark, SpanLog
from peer.protocol.types import (
    AttemptKey,
    CodecFacts,
    Endpoint,
    Exchange,
    Incarnation,
    Member,
    ModelFacts,
    ModelId,
    RequestId,
    Status,
    Timing,
    View,
    peer_id,
)
from peer.zmq_transport import DataSockets, KeyPair, ZmqContext, key_pair_of

HOST = "127.0.0.1"
MODEL = ModelId("00" * 32)
WIDTH = 64
WARM_ROUNDS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table."""

    name: str
    boards: int
    payload_bytes: int
    rounds: int
    port: int
    encrypted: bool = False
    exchange: Exchange = Exchange.DIRECT
    marks: bool = True  # of the trace, as the product has them


class Unmarked(SpanLog):
    """A log that nothing is written to."""

    def note(self, key: AttemptKey, mark: Mark) -> None: ...

    def own(self, key: AttemptKey, kind: SpanKind, block: int, start_s: float, end_s: float) -> None: ...

    def sent(self, key: AttemptKey, block: int, origin: int, now: float) -> None: ...


class Stopwatch:
    """Time spent inside some calls of one process, per name."""

    def __init__(self) -> None:
        self.spent_s: defaultdict[str, float] = defaultdict(float)

    def around(self, owner: object, attribute: str, name: str) -> None:
        """Replace a function or method by itself with a stopwatch around it."""
        inner = getattr(owner, attribute)

        def timed(*arguments: object, **named: object) -> object:
            started = time.perf_counter()
            try:
                return inner(*arguments, **named)
            finally:
                self.spent_s[name] += time.perf_counter() - started

        setattr(owner, attribute, timed)


class NullCompute:
    """Compute that is done at once and notes when each round was complete, and its steps as the worker does."""

    def __init__(self, payload_bytes: int, rounds: int, spans: SpanLog) -> None:
        self.at: list[float] = []
        self._spans = spans
        self._body = bytes(payload_bytes)
        self._rounds = rounds
        self._block: dict[AttemptKey, int] = {}

    def begin(self, effect: Begin) -> Event:
        self._block[effect.key] = 0
        self._spans.begin(effect.key, effect.assign, effect.me, time.monotonic())
        self._note(effect.key, 0, SpanKind.PREPARE, SpanKind.ENCODE)
        return CodesReady(key=effect.key, block=0, body=self._body)

    def query(self, effect: Query) -> Event:
        self._note(effect.key, self._block[effect.key], SpanKind.QUERY)
        return QueryDone(key=effect.key)

    def attend(self, effect: Attend) -> Event:
        self.at.append(time.perf_counter())
        self._block[effect.key] += 1
        block = self._block[effect.key]
        self._note(effect.key, block, SpanKind.DECODE, SpanKind.ATTEND, SpanKind.ENCODE)
        if block < self._rounds:
            return CodesReady(key=effect.key, block=block, body=self._body)
        return ShardDone(key=effect.key, timing=Timing(), body=bytes(4 * WIDTH))

    def whole(self, effect: RunWhole) -> Event:
        return AnswerFailed(request=effect.request, detail="there is no undivided null model")

    def errand(self, effect: RunErrand) -> Event:
        raise AssertionError("nobody hands a null model over")

    def head(self, effect: RunHead) -> Event:
        return LogitsReady(request=effect.request, timing=Timing(), body=bytes(4))

    def _note(self, key: AttemptKey, block: int, *kinds: SpanKind) -> None:
        for kind in kinds:
            now = time.monotonic()
            self._spans.own(key, kind, block, now, time.monotonic())

    def idle(self, now: float) -> float:
        """Nothing to measure."""
        return math.inf

    def busy(self, now: float) -> bool:
        """Nor here."""
        return False

    def forget(self, effect: Forget) -> None:
        self._block.pop(effect.key, None)


def endpoint(setting: Setting, index: int) -> Endpoint:
    """Where a board listens; each has the four ports that a daemon would have."""
    return Endpoint(host=HOST, port=setting.port + 4 * index)


def board_keys(index: int) -> KeyPair:
    """A key pair that every process can compute: these boards have nothing to hide."""
    return key_pair_of(bytes([*bytes(31), index + 1]))


def data_plane(index: int, setting: Setting, barrier: multiprocessing.synchronize.Barrier) -> list[float]:
    """One board of the product's own data plane; board 0 coordinates. Returns the times of its rounds."""
    ids = [peer_id(board_keys(i).public) for i in range(setting.boards)]
    members = {
        peer: Member(
            peer=peer,
            name=f"board-{i}",
            endpoint=endpoint(setting, i),
            public_key=board_keys(i).public,
            incarnation=Incarnation(1),
            status=Status.ALIVE,
            models=frozenset({MODEL}),
        )
        for i, peer in enumerate(ids)
    }
    view = View(self_id=ids[index], members=members)
    codec = CodecFacts(name="null", bits_per_token=(8 * setting.payload_bytes,) * setting.rounds)
    facts = ModelFacts(
        model=MODEL,
        name="null",
        blocks=setting.rounds,
        tokens=setting.boards,
        row_bytes=1,
        width=WIDTH,
        default_codec="null",
        codecs={"null": codec},
        labels=1,
        size_bytes=1,
    )
    context = ZmqContext(board_keys(index) if setting.encrypted else None)
    context.members.replace(member.public_key for member in members.values())
    done = threading.Event()
    failures: list[object] = []

    def deliver(effect: Deliver) -> None:
        if isinstance(effect.result, Exception):
            failures.append(effect.result)
        done.set()

    def crash(problem: BaseException) -> None:
        failures.append(problem)
        done.set()

    spans = SpanLog() if setting.marks else Unmarked()
    compute = NullCompute(setting.payload_bytes, setting.rounds, spans)
    plane = DataPlane(
        sockets=DataSockets(context, HOST, members[ids[index]].endpoint.data_port),
        machine=Requests(view=view, models={MODEL: facts}, limits=RequestLimits()),
        compute=compute,
        encrypted=setting.encrypted,
        spans=spans,
        on_deliver=deliver,
        on_lost=failures.append,
        on_crash=crash,
    )
    plane.start()
    plane.submit(ViewChanged(view=view))
    barrier.wait()
    time.sleep(0.3)  # links are made in the background
    if index == 0:
        submission = Submission(
            request=RequestId(1),
            model=MODEL,
            codec="null",
            exchange=setting.exchange,
            mode=Mode.SEQUENCE,
            boards=None,
            shares=None,
            batch=1,
            deadline_at=time.monotonic() + 120,
            rows=bytes(setting.boards),
            file=None,
        )
        plane.submit(Submitted(submission=submission))
        done.wait(120)
        if failures:
            raise RuntimeError(f"{setting.name}: {failures[0]}")
    barrier.wait()
    plane.stop()
    plane.join(5)
    context.close()
    return compute.at


def watched(index: int, setting: Setting, barrier: multiprocessing.synchronize.Barrier) -> list[float]:
    """`data_plane` with stopwatches on board 0; returns its round's total and its PARTS in seconds."""
    if index:
        return data_plane(index, setting, barrier)
    watch = Stopwatch()
    watch.around(DataSockets, "receive", "receive (waiting for others included)")
    watch.around(DataSockets, "send", "send (3 calls)")
    watch.around(wire, "decode", "decode messages (3)")
    watch.around(wire, "encode", "encode message (1)")
    watch.around(Requests, "handle", "request machine (5 events)")
    at = data_plane(index, setting, barrier)
    return [(at[-1] - at[0]) / (len(at) - 1), *(watch.spent_s[part] / len(at) for part in PARTS)]


def processor(index: int, setting: Setting, barrier: multiprocessing.synchronize.Barrier) -> list[float]:
    """`data_plane`; returns the processor time of board 0's thread at each round, which a busy machine hardly moves."""
    at: list[float] = []
    attend = NullCompute.attend

    def timed(compute: NullCompute, effect: Attend) -> Event:
        at.append(time.thread_time())
        return attend(compute, effect)

    NullCompute.attend = timed  # type: ignore[method-assign, assignment]
    data_plane(index, setting, barrier)
    return at


PARTS = (
    "receive (waiting for others included)",
    "send (3 calls)",
    "request machine (5 events)",
    "decode messages (3)",
    "encode message (1)",
)


def bare_blocking(index: int, setting: Setting, barrier: multiprocessing.synchronize.Barrier) -> list[float]:
    """The same exchange with nothing but pyzmq: blocking sends, blocking receives."""
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    pull.bind(f"tcp://127.0.0.1:{setting.port + index}")
    pushes = []
    for i in range(setting.boards):
        if i != index:
            push = context.socket(zmq.PUSH)
            push.connect(f"tcp://127.0.0.1:{setting.port + i}")
            pushes.append(push)
    payload = bytes([index]) + bytes(setting.payload_bytes - 1)
    barrier.wait()
    time.sleep(0.3)
    at = []
    ahead = 0  # payloads of the next round that came early
    seen = [0] * setting.boards
    for number in range(1, setting.rounds + 1):
        for push in pushes:
            push.send(payload)
        while ahead < setting.boards - 1:
            origin = pull.recv()[0]
            seen[origin] += 1
            ahead += seen[origin] == number
        ahead = sum(seen[i] > number for i in range(setting.boards) if i != index)
        at.append(time.perf_counter())
    barrier.wait()
    context.destroy(linger=0)
    return at


def bare_asyncio(index: int, setting: Setting, barrier: multiprocessing.synchronize.Barrier) -> list[float]:
    """The same exchange with pyzmq's asyncio sockets."""

    async def run() -> list[float]:
        context = zmq.asyncio.Context()
        pull = context.socket(zmq.PULL)
        pull.bind(f"tcp://127.0.0.1:{setting.port + index}")
        pushes = []
        for i in range(setting.boards):
            if i != index:
                push = context.socket(zmq.PUSH)
                push.connect(f"tcp://127.0.0.1:{setting.port + i}")
                pushes.append(push)
        payload = bytes([index]) + bytes(setting.payload_bytes - 1)
        barrier.wait()
        await asyncio.sleep(0.3)
        at = []
        seen = [0] * setting.boards
        for number in range(1, setting.rounds + 1):
            for push in pushes:
                await push.send(payload)
            while any(seen[i] < number for i in range(setting.boards) if i != index):
                seen[(await pull.recv())[0]] += 1
            at.append(time.perf_counter())
        barrier.wait()
        context.destroy(linger=0)
        return at

    return asyncio.run(run())


Board = Callable[[int, Setting, multiprocessing.synchronize.Barrier], list[float]]


def _child(
    board: Board, index: int, setting: Setting, barrier: multiprocessing.synchronize.Barrier, out: Connection
) -> None:
    sys.setswitchinterval(0.0005)
    out.send(board(index, setting, barrier))


def measure(board: Board, setting: Setting) -> list[float]:
    """Durations of board 0's rounds in milliseconds, warm-up left out."""
    at = collect(board, setting)[WARM_ROUNDS:]
    return [(after - before) * 1e3 for before, after in itertools.pairwise(at)]


def collect(board: Board, setting: Setting) -> list[float]:
    """What board 0 returns from a run of all boards, each in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(setting.boards)
    receivers, processes = [], []
    for index in range(setting.boards):
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_child, args=(board, index, setting, barrier, sender), daemon=True)
        process.start()
        sender.close()
        receivers.append(receiver)
        processes.append(process)
    times: list[list[float]] = [receiver.recv() for receiver in receivers]
    for process in processes:
        process.join(10)
    return times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=4)
    parser.add_argument("--bytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--where", action="store_true", help="also say where the time goes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[tuple[str, Board, bool, Exchange]] = [
        ("bare blocking pyzmq", bare_blocking, False, Exchange.DIRECT),
        ("bare asyncio pyzmq", bare_asyncio, False, Exchange.DIRECT),
        ("tokenring direct", data_plane, False, Exchange.DIRECT),
        ("tokenring ring", data_plane, False, Exchange.RING),
        ("tokenring direct, CURVE", data_plane, True, Exchange.DIRECT),
        ("tokenring ring, CURVE", data_plane, True, Exchange.RING),
    ]
    samples: dict[str, list[float]] = {name: [] for name, *_ in rows}
    port = 17700
    for _ in range(options.repeat):
        for name, board, encrypted, exchange in rows:
            port = 17700 + (port - 17700 + 4 * options.boards) % 8000
            setting = Setting(
                name=name,
                boards=options.boards,
                payload_bytes=options.bytes,
                rounds=options.rounds + WARM_ROUNDS,
                port=port,
                encrypted=encrypted,
                exchange=exchange,
            )
            samples[name] += measure(board, setting)
    bare = statistics.median(samples["bare blocking pyzmq"])
    results = []
    for name, *_ in rows:
        ordered = sorted(samples[name])
        p50, p95 = statistics.median(ordered), ordered[int(0.95 * len(ordered))]
        results.append({"name": name, "p50_ms": p50, "p95_ms": p95, "over_bare": p50 / bare, "rounds": len(ordered)})
    if options.json:
        print(json.dumps({"boards": options.boards, "payload_bytes": options.bytes, "rows": results}))
        return
    print(f"{options.boards} boards on loopback, payloads of {options.bytes} bytes, null compute")
    print(f"{'':26} {'p50 ms':>8} {'p95 ms':>8} {'x bare':>7} {'rounds':>7}")
    for row in results:
        print(f"{row['name']:26} {row['p50_ms']:8.3f} {row['p95_ms']:8.3f} {row['over_bare']:7.2f} {row['rounds']:7}")
    if options.where:
        setting = Setting(
            name="where",
            boards=options.boards,
            payload_bytes=options.bytes,
            rounds=options.rounds,
            port=port + 4 * options.boards,
        )
        total, *parts = collect(watched, setting)
        print(f"where a direct round of {total * 1e3:.3f} ms goes on board 0, mean microseconds:")
        rest = total - sum(parts)
        used: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(options.repeat):
            for marks in (True, False):
                port = setting.port + 4 * options.boards * (2 * turn + marks + 1)
                used[marks] += measure(processor, replace(setting, name="processor", marks=marks, port=port))
        with_us, without_us = (statistics.median(used[marks]) * 1e3 for marks in (True, False))
        print(f"processor time of board 0's data plane: {with_us:.1f} us a round (median),")
        print(f"  {without_us:.1f} us without the marks of the trace")
        for name, part in [*zip(PARTS, parts, strict=True), ("loop, dispatch, stopwatches", rest)]:
            print(f"  {name:40} {part * 1e6:7.1f}")


if __name__ == "__main__":
    main()
