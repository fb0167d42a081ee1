"""Which metrics a board shows, and from which of its facts each comes. Pure; the text itself is `metrics_text`'s."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peer.metrics_text import Family, counter, gauge, histogram
from peer.protocol.accounts import LinkTotals, Load, ShardTotals
from peer.protocol.types import PeerId, Status, View
from peer.request_meter import PHASES, RequestMeter
from peer.sensors import Sensors

_OWN: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What the kernel accounts to one of the board's two processes."""

    memory_bytes: int
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One moment of one board."""

    version: str
    protocol: int
    ready: bool
    uptime_s: float
    models: int
    view: View
    speed: float | None  # content-token blocks per second
    meter: RequestMeter
    load: Load
    shards: ShardTotals
    links: Mapping[PeerId, LinkTotals]
    restarts: int
    stuck_s: float
    membership_events: Mapping[str, int]
    data_events: Mapping[str, int]
    refused_clients: Mapping[str, int]
    refused_handshakes: Mapping[str, int]
    processes: Mapping[str, Process]
    sensors: Sensors


def families(facts: Facts) -> list[Family]:
    """Every metric, in the order of the page."""
    return [
        *_board(facts),
        *_requests(facts),
        *_shards(facts),
        *_peers(facts),
        *_health(facts),
        *_machine(facts.sensors),
    ]


def _board(facts: Facts) -> list[Family]:
    me = facts.view.members[facts.view.self_id]
    return [
        gauge(
            "build_info",
            "Release and protocol version; always 1.",
            (1, {"version": facts.version, "protocol": str(facts.protocol)}),
        ),
        gauge("board_info", "Id and name of this board; always 1.", (1, {"peer": me.peer, "name": me.name})),
        gauge("ready", "Whether this board can serve.", (facts.ready, _OWN)),
        gauge("uptime_seconds", "Since the daemon started.", (facts.uptime_s, _OWN)),
        gauge("models", "Models that this board can serve.", (facts.models, _OWN)),
        gauge(
            "speed_token_blocks_per_second",
            "Speed that this board measured of itself: content tokens times blocks per second of compute.",
            *_some(facts.speed),
        ),
    ]


def _requests(facts: Facts) -> list[Family]:
    meter, load = facts.meter, facts.load
    return [
        counter(
            "requests_total",
            "Requests answered by this board: undivided, or as a sequence of shards.",
            *((count, {"mode": mode}) for mode, count in meter.answered.items()),
        ),
        counter(
            "requests_degraded_total",
            "Of these, answers without a lost board's tokens: allowed by the asker, or no time to run anew.",
            *((count, {"reason": reason}) for reason, count in meter.degraded.items()),
        ),
        counter(
            "requests_failed_total",
            "Requests asked of this board that ended with an error, refusals included.",
            *((count, {"reason": reason}) for reason, count in meter.failed.items()),
        ),
        counter(
            "clients_refused_total",
            "Clients of the control socket that found no room.",
            *((count, {"reason": reason}) for reason, count in facts.refused_clients.items()),
        ),
        counter("pictures_total", "Pictures in the answered requests.", (meter.pictures, _OWN)),
        counter("attempts_total", "Attempts that the answered requests took.", (meter.attempts, _OWN)),
        counter(
            "boards_lost_total",
            "Boards that stayed out of an answered request after it had begun.",
            *((count, {"peer": peer}) for peer, count in sorted(meter.lost.items())),
        ),
        histogram("request_seconds", "From the request to its answer, on the asked board.", [(meter.latency, _OWN)]),
        histogram(
            "request_phase_seconds",
            "Where that time went: behind other requests, preparing, computing, waiting for slower boards, network.",
            [(meter.phases[phase], {"phase": phase}) for phase in PHASES],
        ),
        gauge(
            "requests_under_way",
            "Requests asked of this board that run, or wait their turn.",
            (load.running, {"state": "running"}),
            (load.waiting, {"state": "waiting"}),
        ),
    ]


def _shards(facts: Facts) -> list[Family]:
    spent = facts.shards.spent
    return [
        counter("shards_total", "Shards that this board computed, for whoever asked.", (facts.shards.shards, _OWN)),
        counter(
            "shard_seconds_total",
            "Where this board's time went for them.",
            (spent.prepare_us / 1e6, {"phase": "prepare"}),
            (spent.compute_us / 1e6, {"phase": "compute"}),
            (spent.encode_us / 1e6, {"phase": "encode"}),
            (spent.decode_us / 1e6, {"phase": "decode"}),
            (spent.wait_us / 1e6, {"phase": "wait"}),
        ),
        gauge("shards_under_way", "Shards that this board computes now.", (facts.load.shards, _OWN)),
    ]


def _peers(facts: Facts) -> list[Family]:
    view = facts.view
    others = sorted((m for m in view.members.values() if m.peer != view.self_id), key=lambda member: member.peer)
    states = [member.status for member in view.members.values()]
    return [
        gauge(
            "members",
            "Boards that this one lists, itself included.",
            *((states.count(status), {"state": status.value}) for status in Status),
        ),
        gauge(
            "peer_info",
            "Id and name of each other board; always 1.",
            *((1, {"peer": member.peer, "name": member.name}) for member in others),
        ),
        gauge(
            "peer_state",
            "Which state each other board is in: 1 for it, 0 for the others.",
            *(
                (member.status is status, {"peer": member.peer, "state": status.value})
                for member in others
                for status in Status
            ),
        ),
        gauge(
            "peer_rtt_seconds",
            "Last ping's round trip.",
            *((member.rtt_s, {"peer": member.peer}) for member in others if member.rtt_s is not None),
        ),
        gauge(
            "peer_speed_token_blocks_per_second",
            "Speed that each other board says it measured.",
            *((member.speed, {"peer": member.peer}) for member in others if member.speed),
        ),
        counter(
            "peer_sent_bytes_total",
            "Handed to the tensor sockets for each board, encryption and framing included.",
            *((link.sent_bytes, {"peer": peer}) for peer, link in facts.links.items()),
        ),
        counter(
            "peer_received_bytes_total",
            "Came from each board through the tensor sockets; unknown without a cluster token.",
            *((link.received_bytes, {"peer": peer}) for peer, link in facts.links.items()),
        ),
        counter(
            "peer_rounds_total",
            "Code messages that each board brought: one per round, several in a ring exchange.",
            *((link.rounds, {"peer": peer}) for peer, link in facts.links.items()),
        ),
    ]


def _health(facts: Facts) -> list[Family]:
    return [
        counter(
            "compute_restarts_total", "Times that the compute process had to be started again.", (facts.restarts, _OWN)
        ),
        gauge("compute_stuck_seconds", "How long the compute has been in its present step.", (facts.stuck_s, _OWN)),
        counter(
            "membership_events_total",
            "What the membership counted.",
            *((count, {"event": event}) for event, count in sorted(facts.membership_events.items())),
        ),
        counter(
            "data_events_total",
            "What the data plane counted; starts at 0 again with the compute process.",
            *((count, {"event": event}) for event, count in sorted(facts.data_events.items())),
        ),
        counter(
            "handshakes_refused_total",
            "Connections with a wrong token (door) or a key that is not admitted (members).",
            *((count, {"socket": socket}) for socket, count in facts.refused_handshakes.items()),
        ),
        gauge(
            "memory_bytes",
            "Resident memory of the daemon and of its compute process.",
            *((process.memory_bytes, {"process": name}) for name, process in facts.processes.items()),
        ),
        counter(
            "cpu_seconds_total",
            "Processor time of the daemon and of its compute process.",
            *((process.cpu_s, {"process": name}) for name, process in facts.processes.items()),
        ),
    ]


def _machine(sensors: Sensors) -> list[Family]:
    frequencies = sensors.frequencies
    return [
        gauge(
            "temperature_celsius",
            "What each thermal zone shows.",
            *((value, {"zone": zone}) for zone, value in sensors.temperatures_c.items()),
        ),
        gauge(
            "cpu_frequency_hertz",
            "Clock rate of each group of cores.",
            *((f.now, {"policy": policy}) for policy, f in frequencies.items() if f.now is not None),
        ),
        gauge(
            "cpu_frequency_allowed_ratio",
            "Of the possible clock rate, how much is allowed at present.",
            *(
                (f.allowed / f.possible, {"policy": policy})
                for policy, f in frequencies.items()
                if f.allowed and f.possible
            ),
        ),
        gauge(
            "cooling_step",
            "How far each cooling device slows the processor; 0: not at all.",
            *((step, {"device": device}) for device, step in sensors.cooling.items()),
        ),
        gauge(
            "firmware_throttled",
            "What the firmware of a Raspberry Pi says of the moment.",
            *((said, {"reason": reason}) for reason, said in sensors.firmware.items()),
        ),
    ]


def _some(value: float | None) -> Sequence[tuple[float, Mapping[str, str]]]:
    return () if value is None else ((value, _OWN),)
