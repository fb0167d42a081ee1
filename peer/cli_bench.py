"""`peerctl bench`: the ring against one board alone, measured in turns so that both meet the same weather."""

import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from peer.cli_inputs import read_image
from peer.cli_output import Asked, Progress, count, printable, say_json, shared_options, table
from peer.control_client import ControlClient
from peer.errors import BadFrame, NotEnoughBoards
from peer.reports import InferQuery, InferReport

_WARM_UPS = 3
_IMAGE_SIDE = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one way of running measured; latencies as the asked daemon saw them."""

    boards: int
    mode: str
    codec: str | None
    exchange: str | None
    n: int
    p50_ms: float
    p95_ms: float
    # Of one request, from the last of them.
    rounds: int
    payload_bytes: int
    wire_bytes: int
    input_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Both sides; `speed_up` is the single board's median over the ring's."""

    model: str
    single: Side
    ring: Side
    speed_up: float
    # All boards share this machine's cores, so that splitting the work cannot add computing power.
    same_machine: bool


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", help="Model to measure  [the daemon's default].")
@click.option("--boards", type=click.IntRange(2), help="Boards to compare with one  [all that are alive].")
@click.option("--codec", help="How codes are packed on the way.")
@click.option("--exchange", type=click.Choice(["ring", "direct"]), help="How codes travel between the boards.")
@click.option("-n", "runs", type=click.IntRange(1, 100_000), default=50, help="Requests of each kind  [50].")
@click.option("--image", type=click.Path(path_type=Path), help="Image to send  [a generated one].")
@shared_options
def bench(
    *,
    model: str | None,
    boards: int | None,
    codec: str | None,
    exchange: str | None,
    runs: int,
    image: Path | None,
    as_json: bool,
    socket: Path | None,
    timeout: float | None,
) -> None:
    """Measure p50/p95 latency, bytes and rounds of the ring, against one board alone.

    \b
    Examples:
      peerctl bench --model vit-cifar10
      peerctl bench --boards 4 --codec int8 -n 200 --json
    """
    data = generated_image() if image is None else read_image(image)
    with Asked(socket=socket, json=as_json, timeout_s=timeout).client() as client:
        members = [member for member in client.members() if member.status == "alive"]
        chosen = boards or len(members)
        if chosen < 2:
            raise NotEnoughBoards("this board is alone; start another, or try peerctl up --boards 2 -- peerctl bench")
        alone = InferQuery(inputs=("bench",), model=model, boards=1, mode="single", top=1)
        shared = InferQuery(
            inputs=("bench",), model=model, boards=chosen, codec=codec, exchange=exchange, mode="sequence", top=1
        )
        single, ring = _measure(client, alone, shared, data, runs)
    result = Bench(
        model=ring[-1].model,
        single=_side(single),
        ring=_side(ring),
        speed_up=percentile([run.latency_ms for run in single], 50) / percentile([run.latency_ms for run in ring], 50),
        same_machine=all(_is_loopback(member.endpoint) for member in members),
    )
    if as_json:
        say_json(result)
    else:
        _show(result)


def _measure(
    client: ControlClient, alone: InferQuery, shared: InferQuery, data: bytes, runs: int
) -> tuple[list[InferReport], list[InferReport]]:
    """Run both kinds in turns, after a warm-up that is not counted."""
    single: list[InferReport] = []
    ring: list[InferReport] = []
    progress = Progress(_WARM_UPS + runs)
    for number in range(_WARM_UPS + runs):
        progress.show(number, "warm-up" if number < _WARM_UPS else "measuring")
        for query, kept in ((alone, single), (shared, ring)):
            report = client.infer(query, [data])[0]
            if report.latency_ms <= 0:
                raise BadFrame("the daemon reported a latency of no time; is it of another version?")
            if number >= _WARM_UPS:
                kept.append(report)
    progress.clear()
    return single, ring


def _side(reports: Sequence[InferReport]) -> Side:
    last, latencies = reports[-1], [report.latency_ms for report in reports]
    return Side(
        boards=len(last.boards),
        mode=last.mode,
        codec=last.codec,
        exchange=last.exchange,
        n=len(reports),
        p50_ms=percentile(latencies, 50),
        p95_ms=percentile(latencies, 95),
        rounds=last.rounds,
        payload_bytes=last.payload_bytes,
        wire_bytes=last.wire_bytes,
        input_bytes=last.input_bytes,
    )


def _show(result: Bench) -> None:
    heads = ("boards", "p50 ms", "p95 ms", "rounds", "code bytes", "wire bytes", "codec", "exchange")
    rows = [
        (
            str(side.boards),
            f"{side.p50_ms:.1f}",
            f"{side.p95_ms:.1f}",
            str(side.rounds),
            f"{side.payload_bytes:,}",
            f"{side.wire_bytes:,}",
            side.codec or "-",
            side.exchange or "-",
        )
        for side in (result.single, result.ring)
    ]
    click.echo(f"{printable(result.model)}, {count(result.ring.n, 'request')} of each kind, in turns")
    click.echo(table(heads, rows, right=frozenset(heads[:-2])))
    click.echo(f"{count(result.ring.boards, 'board')}: {result.speed_up:.2f} times as fast as one")
    if result.same_machine:
        click.echo(
            "All boards run on this machine and share its cores: these figures show what the exchange costs, "
            "not what more boards gain."
        )


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of at least one value: always one that was measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def generated_image() -> bytes:
    """A colour gradient as a PPM file: every decoder reads it, and no image library is needed to make it."""
    side = _IMAGE_SIDE
    pixels = bytes(
        value for y in range(side) for x in range(side) for value in (x * 255 // side, y * 255 // side, (x ^ y) & 255)
    )
    return f"P6\n{side} {side}\n255\n".encode("ascii") + pixels


def _is_loopback(endpoint: str) -> bool:
    """Whether `HOST:PORT`, possibly with a scheme, lies on this machine."""
    host = endpoint.rpartition("//")[2].rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
