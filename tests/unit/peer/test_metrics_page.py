"""The metrics page through Prometheus' own parser, its names and labels, and the dashboard's queries."""

import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from peer.errors import PeerError
from peer.metrics_page import Facts, Process, families
from peer.metrics_text import Family, Histogram, Kind, gauge, histogram, render
from peer.protocol.accounts import LinkTotals, Load, ShardTotals
from peer.protocol.effects import Answer, BoardReport
from peer.protocol.types import (
    Endpoint,
    Exchange,
    Incarnation,
    Member,
    PeerId,
    Shard,
    Status,
    Timing,
    TokenRange,
    Traffic,
    View,
)
from peer.request_meter import PHASES, RequestMeter
from peer.sensors import Frequency, Sensors, read_sensors

DASHBOARD = Path(__file__).parents[3] / "docs/grafana/tokenring.json"
ME, OTHER = PeerId("0a" * 8), PeerId("0b" * 8)
TIMING = Timing(prepare_us=1_000, compute_us=10_000, encode_us=500, decode_us=500, wait_us=4_000)


def member(peer: PeerId, name: str, status: Status = Status.ALIVE) -> Member:
    return Member(
        peer=peer,
        name=name,
        endpoint=Endpoint(host="10.0.0.1", port=7700),
        public_key=bytes(32),
        incarnation=Incarnation(1),
        status=status,
        rtt_s=0.002,
        speed=1000.0,
    )


def answer(*, waits_us: tuple[int, ...] = (4_000, 1_000), degraded: bool = False) -> Answer:
    boards = tuple(
        BoardReport(
            shard=Shard(peer=peer, tokens=TokenRange(start=n * 8, stop=n * 8 + 8)),
            timing=replace(TIMING, wait_us=wait_us),
            traffic=Traffic(payload_bytes=10, wire_bytes=20, messages=1),
        )
        for n, (peer, wait_us) in enumerate(zip((ME, OTHER), waits_us, strict=True))
    )
    return Answer(
        logits=b"",
        single=False,
        codec="f32",
        exchange=Exchange.DIRECT,
        attempts=2,
        rounds=3,
        boards=boards,
        lost=(OTHER,),
        degraded=degraded,
        slow=(),
        input_bytes=0,
        gather_s=0.002,
        latency_s=0.03,
        predicted_s=None,
        reason="",
        queue_s=0.005,
    )


def meter() -> RequestMeter:
    made = RequestMeter(ME, now=0.0)
    for degraded in (False, True):
        made.answer(
            answer(degraded=degraded), pictures=2, allowed=True, decoded_s=0.004, latency_s=0.04, now=100.0 + degraded
        )
    made.failure("busy")
    return made


def facts(name: str = "kitchen", made: RequestMeter | None = None) -> Facts:
    """A board that has something to say of everything."""
    return Facts(
        version="0.1.0",
        protocol=1,
        ready=True,
        uptime_s=12.5,
        models=1,
        view=View(self_id=ME, members={ME: member(ME, name), OTHER: member(OTHER, "cellar", Status.SUSPECT)}),
        speed=2000.0,
        meter=made or meter(),
        load=Load(running=2, waiting=1, shards=3),
        shards=ShardTotals(shards=7, spent=TIMING),
        links={OTHER: LinkTotals(sent_bytes=100, received_bytes=50, rounds=9)},
        restarts=1,
        stuck_s=0.0,
        membership_events={"refutations": 2},
        data_events={"late_codes": 3},
        refused_clients={"connections": 0, "bytes": 1},
        refused_handshakes={"door": 4, "members": 0},
        processes={"daemon": Process(memory_bytes=1 << 20, cpu_s=1.5)},
        sensors=Sensors(
            temperatures_c={"thermal_zone0:cpu": 61.5},
            frequencies={"policy0": Frequency(now=1_500_000_000, allowed=1_200_000_000, possible=1_800_000_000)},
            cooling={"cooling_device0": 2},
            firmware={"throttled": True},
        ),
    )


def parsed(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def value(page: str, metric: str, /, **labels: str) -> float:
    return parsed(page)[metric, frozenset(labels.items())]


def test_prometheus_reads_the_page_and_finds_what_was_put_in() -> None:
    page = render(families(facts()))
    assert value(page, "tokenring_build_info", version="0.1.0", protocol="1") == 1
    assert value(page, "tokenring_requests_total", mode="sequence") == 2
    assert value(page, "tokenring_requests_degraded_total", reason="allowed") == 1
    assert value(page, "tokenring_requests_failed_total", reason="busy") == 1
    assert value(page, "tokenring_requests_failed_total", reason="deadline") == 0
    assert value(page, "tokenring_peer_state", peer=OTHER, state="suspect") == 1
    assert value(page, "tokenring_peer_state", peer=OTHER, state="alive") == 0
    assert value(page, "tokenring_members", state="alive") == 1
    assert value(page, "tokenring_peer_sent_bytes_total", peer=OTHER) == 100
    assert value(page, "tokenring_peer_rounds_total", peer=OTHER) == 9
    assert value(page, "tokenring_requests_under_way", state="waiting") == 1
    assert value(page, "tokenring_shard_seconds_total", phase="compute") == 0.01
    assert value(page, "tokenring_temperature_celsius", zone="thermal_zone0:cpu") == 61.5
    assert value(page, "tokenring_cpu_frequency_allowed_ratio", policy="policy0") == pytest.approx(2 / 3)
    assert value(page, "tokenring_request_seconds_count") == 2


def test_the_parser_sees_the_kinds_that_were_meant() -> None:
    read = {family.name: family.type for family in text_string_to_metric_families(render(families(facts())))}
    for family in families(facts()):
        # The parser takes the ending off a counter's name.
        assert read["tokenring_" + family.name.removesuffix("_total")] == family.kind


def test_names_follow_the_rules() -> None:
    for family in families(facts()):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
        assert (family.kind is Kind.COUNTER) == family.name.endswith("_total"), family.name
        assert not re.search(r"_(ms|us|milliseconds|kb|mb|percent|mhz)(_|$)", family.name), "base units only"
        assert family.help.endswith(".")
    names = [family.name for family in families(facts())]
    assert len(set(names)) == len(names)


def test_labels_are_few_and_none_is_a_request() -> None:
    allowed = {
        *("version", "protocol", "peer", "name", "mode", "reason", "phase", "state", "event", "socket", "process"),
        *("zone", "policy", "device", "le"),
    }
    used = {label for family in families(facts()) for sample in family.samples for label in sample.labels}
    assert used <= allowed
    assert {"peer", "reason", "phase"} <= used


def test_reasons_of_failures_are_kinds_of_errors() -> None:
    kinds = {error.kind for error in _errors(PeerError)}
    assert set(RequestMeter(ME, now=0.0).failed) <= kinds


def _errors(root: type[PeerError]) -> list[type[PeerError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _errors(child))]


def test_a_board_that_cannot_tell_says_nothing() -> None:
    silent = replace(facts(), sensors=read_sensors(Path("/nonexistent")), speed=None, links={})
    page = render(families(silent))
    for name in ("temperature", "firmware", "cooling", "cpu_frequency", "speed_token_blocks_per_second{", "sent_bytes"):
        assert f"tokenring_{name}" not in page


@given(name=st.text(max_size=40))
def test_no_name_of_a_board_breaks_the_page(name: str) -> None:
    page = render([gauge("board_info", "Always 1.", (1, {"peer": ME, "name": name}))])
    assert value(page, "tokenring_board_info", peer=ME, name=name) == 1
    assert page.count("\n") == 3


@given(values=st.lists(st.floats(0, 100), max_size=30), bounds=st.lists(st.floats(0, 100), unique=True, max_size=8))
def test_a_histogram_counts_what_is_below_each_bound(values: list[float], bounds: list[float]) -> None:
    made = Histogram(sorted(bounds))
    for each in values:
        made.observe(each)
    read = parsed(render([histogram("x_seconds", "X.", [(made, {})])]))
    for (name, labels), count in read.items():
        if name.endswith("_bucket"):
            bound = float(dict(labels)["le"])
            assert count == sum(each <= bound for each in values)
    assert read["tokenring_x_seconds_bucket", frozenset({("le", "+Inf")})] == len(values)
    assert math.isclose(read["tokenring_x_seconds_sum", frozenset()], math.fsum(values), abs_tol=1e-6)


def test_phases_say_where_the_asked_boards_time_went() -> None:
    made = meter()
    page = render(families(facts(made=made)))
    seconds = {phase: value(page, "tokenring_request_phase_seconds_sum", phase=phase) / 2 for phase in PHASES}
    assert seconds == pytest.approx(
        # The other board waited 1 ms: so long took the network. Of this board's 4 ms the rest was waiting for it, and
        # 2 ms for its class token.
        {"queue": 0.005, "prepare": 0.005, "compute": 0.011, "wait": 0.005, "network": 0.001}
    )
    assert sum(seconds.values()) <= value(page, "tokenring_request_seconds_sum") / 2


def test_the_last_minute_is_what_is_recent() -> None:
    made = meter()
    recent = made.recent(now=110.0)
    assert (recent.answers, recent.p50_s) == (2, 0.04)
    assert recent.answers_per_s == pytest.approx(0.2)
    assert recent.boards[ME].tokens == 16
    assert recent.boards[OTHER].wait_s == pytest.approx(0.002)
    assert made.recent(now=1000.0).answers == 0
    assert made.answered["sequence"] == 2


def test_boards_that_are_not_listed_any_more_have_no_line() -> None:
    made = meter()
    assert made.lost == Counter({OTHER: 2})
    made.keep((ME,))
    assert not made.lost


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [
        variable["query"]["query"] for variable in board["templating"]["list"] if variable["name"] == "instance"
    ]
    page = families(facts())
    known = {
        f"tokenring_{family.name}{sample.suffix}": set(sample.labels) for family in page for sample in family.samples
    }
    assert len(queries) >= 20
    asked = set()
    for query in queries:
        names = re.findall(r"tokenring_\w+", query)
        assert names, query
        asked |= set(names)
        for name in names:
            assert name in known, f"{query}: there is no {name}"
        for grouped in re.findall(r"\bby \(([^)]*)\)", query):
            labels = {label.strip() for label in grouped.split(",")} - {"instance"}
            assert labels <= set.union(*(known[name] for name in names)), query
        for label in re.findall(r"\{\{(\w+)\}\}", query):
            assert label == "instance" or any(label in known[name] for name in names)
    families_asked = {family.name for family in page if any(f"tokenring_{family.name}" in name for name in asked)}
    left_out = {family.name for family in page} - families_asked
    # Shown nowhere: what a graph does not help with.
    assert left_out == {
        *("board_info", "uptime_seconds", "models", "peer_info", "peer_state", "pictures_total", "attempts_total"),
        *("shards_total", "peer_speed_token_blocks_per_second", "compute_stuck_seconds"),
        *("membership_events_total", "data_events_total"),
    }


def test_families_without_samples_are_left_out() -> None:
    assert render([Family(name="nothing", kind=Kind.GAUGE, help="Nothing.", samples=())]) == ""
