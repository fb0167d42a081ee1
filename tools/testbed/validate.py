"""Is the emulation to be believed? Links against their rates, one board against S, two against two real cores."""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from peer.reports import InferQuery
from tests.helpers.lan import lan
from tools.testbed.boards import Bed, Boards, boards
from tools.testbed.learn import learn
from tools.testbed.measure import PICTURE
from tools.testbed.models import make
from tools.testbed.settings import Setting
from tools.testbed.slow_core import be_urgent

RATES = (10.0, 100.0, 1000.0)
FACTORS = (4.0, 8.0, 16.0)
_MODEL, _CODEC = "vit-small-257-int8", "tc160"  # where rounds weigh most
_WARM, _TIMES = 3, 9
_BULK_S = 1.5
_PORT = 7800
_SEND = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as to:
    until = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < until:
        to.sendall(bytes(65536))
"""


def measured_rate(mbit: float) -> float:
    """Megabits of payload per second that pass from one emulated board to another when as much is sent as fits."""
    with lan(2, ipv6=False) as network:
        for index in range(2):
            network.shape(index, mbit)
        listener = network[1].socket(2, 1)
        listener.bind((network[1].address, _PORT))
        listener.listen()
        arguments = [sys.executable, "-c", _SEND, network[1].address, _PORT, _BULK_S]
        sender = network[0].popen(arguments)
        link, _ = listener.accept()
        began_at, came = time.monotonic(), 0
        with link, listener:
            while part := link.recv(1 << 16):
                came += len(part)
        ended_at = time.monotonic()
        sender.communicate()
        return came * 8e-6 / (ended_at - began_at)


def _query(count: int, codec: str) -> InferQuery:
    return InferQuery(
        inputs=("picture",),
        boards=count,
        shares=(1.0,) * count if count > 1 else None,
        codec=codec,
        mode="sequence" if count > 1 else "single",
        deadline_s=300.0,
    )


def in_turns(asked: Sequence[tuple[Boards, int, InferQuery]]) -> list[float]:
    """Median latency of each request on its board, end to end, ms; taken in turns, as this machine's speed varies.

    Each is asked twice in a row and the second counts: a real core that stood idle meanwhile has cold caches.
    """
    image = PICTURE.read_bytes()
    found: list[list[float]] = [[] for _ in asked]
    for turn in range(_WARM + _TIMES):
        for times, (bed, index, query) in zip(found, asked, strict=True):
            bed.ask(query, image, index=index)
            took_s = bed.ask(query, image, index=index)[1]
            if turn >= _WARM:
                times.append(1e3 * took_s)
    return [statistics.median(times) for times in found]


def _run(options: argparse.Namespace) -> int:
    model, codec = options.model, options.codec
    folder = options.models / f"validate-{model}"
    make(model, folder, (codec,))
    query = partial(_query, codec=codec)
    be_urgent()
    wrong = 0

    def line(what: str, found: float, wanted: float, unit: str, within: float) -> None:
        nonlocal wrong
        off = found / wanted - 1
        wrong += abs(off) > within
        verdict = "" if abs(off) <= within else f"  more than {within:.0%} off"
        print(f"{what:55} {found:8.2f} {unit:6} of {wanted:8.2f}  {off:+6.1%}{verdict}", flush=True)

    for mbit in RATES:
        # A full frame holds 1448 bytes of payload; the bucket counts 1514.
        line(f"link of {mbit:g} Mbit/s, payload", measured_rate(mbit), mbit * 1448 / 1514, "Mbit/s", 0.05)
    single = Setting(model=model, boards=1)
    learn((single, replace(single, boards=2, codec=codec)), folder, folder / "steps.jsonl")
    slowed = {"TESTBED_LEARNED": str(folder / "steps.jsonl")}
    with boards(Bed(slower=FACTORS, models=folder, environment=slowed)) as bed:
        bed.rate(1000.0)
        alone = in_turns([(bed, index, query(1)) for index in range(len(FACTORS))])
    for factor, found in zip(FACTORS, alone, strict=True):
        # Only the client's own few milliseconds do not scale.
        line(f"one board, {factor:g} times slower, against the one of 8", found, alone[1] * factor / 8, "ms", 0.05)
    real = Bed(slower=(1.0, 1.0), models=folder, environment={"TESTBED_CORES": "own"})
    with boards(real) as cores, boards(Bed(slower=(8.0, 8.0), models=folder, environment=slowed)) as bed:
        for each in (cores, bed):
            each.rate(1000.0)
        one, two, slow_one, slow_two = in_turns(
            [(cores, 0, query(1)), (cores, 0, query(2)), (bed, 0, query(1)), (bed, 0, query(2))]
        )
    line("one board, 8 times slower, against a real core x 8", slow_one, 8 * one, "ms", 0.10)
    line("two boards, 8 times slower, against two real cores x 8", slow_two, 8 * two, "ms", 0.10)
    # What everything here is about: a real core that finds its caches cold is slower with one board and with two.
    line("times one board, two boards, against two real cores", slow_one / slow_two, one / two, "", 0.10)
    return 1 if wrong else 0


def add_verb(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser("validate", help="is the emulation to be believed?")
    parser.add_argument("--models", type=Path, default=Path("runs/models"))
    parser.add_argument("--model", default=_MODEL, help=f"one with random weights  [{_MODEL}]")
    parser.add_argument("--codec", default=_CODEC, help=f"how two boards pack their codes  [{_CODEC}]")
    parser.set_defaults(run=_run)
