"""The emulated boards' arithmetic, and what is made of measurements; one smoke test with real boards."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.lan import why_no_lan
from tools.testbed import compare, crowd, records
from tools.testbed.ledger import THERE_ALREADY_S, Lateness, Ledger
from tools.testbed.records import BoardTimes, Measured

SECONDS = st.floats(0.0, 10.0)


def board(**times: float) -> BoardTimes:
    usual = {"prepare_ms": 1.0, "compute_ms": 80.0, "encode_ms": 2.0, "decode_ms": 1.0, "wait_ms": 5.0}
    return BoardTimes(tokens=49, **{**usual, **times})


def row(**fields: object) -> Measured:
    usual = Measured(
        key="vit-base-197-int8 4 tc53 10 0",
        plan="base",
        model="vit-base-197-int8",
        boards=4,
        codec="tc53",
        mbit=10.0,
        slower=(8.0,) * 4,
        times_ms=(100.0, 90.0, 110.0),
        late_ms=(0.1, 0.2, 0.3),
        dropped=0,
        mode="sequence",
        rounds=12,
        payload_bytes=40_000,
        wire_bytes=50_000,
        input_bytes=2_500,
        gather_ms=1.0,
        predicted_ms=None,
        rtt_ms=0.5,
        costs=(board(), board(compute_ms=70.0)),
        machine="a machine",
        commit="abc",
    )
    return replace(usual, **fields)  # type: ignore[arg-type]  # the caller names real fields


ALONE = row(key="vit-base-197-int8 1 - 10 0", boards=1, codec="", times_ms=(280.0,), mode="single", payload_bytes=0)
ALONE_F32 = row(key="vit-base-197 1 - 10 0", model="vit-base-197", boards=1, codec="", times_ms=(400.0,))


@given(slower=st.floats(1.0, 64.0), parts=st.lists(SECONDS, min_size=1, max_size=5))
def test_work_is_due_after_s_times_its_processor_time_in_however_many_parts(slower: float, parts: list[float]) -> None:
    ledger = Ledger(slower)
    ledger.begin(100.0, 7.0)
    assert ledger.due(7.0 + sum(parts)) == pytest.approx(100.0 + slower * sum(parts))


def test_what_the_emulation_itself_spends_is_not_due() -> None:
    ledger = Ledger(8.0)
    ledger.begin(0.0, 0.0)
    ledger.exempt(0.25)
    assert ledger.due(1.0) == pytest.approx(6.0)


def test_a_board_that_waited_begins_anew_when_something_comes_and_pays_for_receiving_it() -> None:
    ledger = Ledger(10.0)
    ledger.begin(0.0, 0.0)
    ledger.waited(asked_at=1.0, now=5.0, spent_before_s=0.1, spent_s=0.3)
    assert ledger.due(0.3) == pytest.approx(5.0 - 0.2 + 10 * 0.2)


def test_what_comes_before_a_board_is_through_is_begun_afterwards() -> None:
    ledger = Ledger(10.0)
    ledger.begin(0.0, 0.0)
    ledger.waited(asked_at=1.0, now=5.0, spent_before_s=2.0, spent_s=2.1)
    assert ledger.due(2.1) == pytest.approx(20.0 + 10 * 0.1)


def test_a_board_that_found_a_message_waiting_stays_late() -> None:
    ledger = Ledger(10.0)
    ledger.begin(0.0, 0.0)
    ledger.waited(asked_at=1.0, now=1.0 + THERE_ALREADY_S / 2, spent_before_s=0.1, spent_s=0.1)
    assert ledger.due(0.1) == pytest.approx(1.0)


def test_a_faster_core_cannot_be_emulated() -> None:
    with pytest.raises(ValueError, match="slower core"):
        Ledger(0.5)


def test_lateness_counts_only_what_was_late() -> None:
    late = Lateness()
    for each in (-1.0, 0.5, 0.25):
        late.note(each)
    assert (late.shown, late.total_s, late.most_s) == (3, 0.75, 0.5)


def test_one_board_is_the_faster_of_both_kinds_of_weights_at_the_same_rate() -> None:
    rows = [ALONE_F32, ALONE, replace(ALONE, mbit=100.0, times_ms=(1.0,)), row()]
    assert compare.speed_up(rows, row()) == pytest.approx(2.8)
    assert compare.speed_up([row()], row()) is None


def test_the_bound_is_the_slowest_boards_work_and_what_its_link_carries() -> None:
    # 84 ms of work; 10,000 bytes of codes and 2,500 of input at 10 Mbit/s are 10 ms.
    assert compare.bound_ms(row()) == pytest.approx(84.0 + 10.0)


def test_shares_of_a_request_add_up_to_it() -> None:
    part = compare.shares(row())
    assert part.rest_ms == pytest.approx(100.0 - 84.0 - 5.0)
    total = part.compute_ms + part.encode_ms + part.decode_ms + part.wait_ms + part.rest_ms
    assert total == pytest.approx(row().median_ms)


def test_tensor_parallelism_pays_for_two_reductions_per_block() -> None:
    on_links = compare.tensor_parallel_ms(
        alone_ms=1200, boards=4, blocks=12, tokens=100, width=250, mbit=10, round_ms=1.0
    )
    # 2 * 3/4 of 100,000 bytes are 120 ms at 10 Mbit/s.
    assert on_links == pytest.approx(300 + 24 * 121)


def test_the_planners_choice_is_judged_by_the_fastest_setting_beside_it() -> None:
    chosen = row(key="vit-base-197-int8 0 - 10 0", times_ms=(105.0,), predicted_ms=84.0)
    assert compare.regret([chosen, row(), ALONE], chosen) == pytest.approx(0.05)
    assert compare.prediction_error(chosen) == pytest.approx(-0.2)


def test_records_come_back_as_they_were_and_the_last_one_of_a_setting_counts(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "measured.jsonl"
    records.append(path, row())
    records.append(path, row(dropped=3))
    assert list(records.read(path)) == [row(dropped=3)]
    assert list(records.read(tmp_path / "none")) == []


def figure(kind: str, *, clients: int = 1, answers: int = 20, seconds: float = 10.0) -> crowd.Crowd:
    return crowd.Crowd(
        kind=kind,
        clients=clients,
        answers=answers,
        failed=0,
        seconds=seconds,
        median_ms=300.0,
        p95_ms=400.0,
        ways=("single on 1: 20",),
        model="vit-base-197-int8",
        machine="a machine",
        commit="abc",
    )


def test_crowds_are_compared_with_one_board_and_the_last_figure_of_each_counts(tmp_path: Path) -> None:
    path = tmp_path / "crowd.jsonl"
    figures = [figure("single", seconds=80.0), figure("single", seconds=40.0), figure("clients", clients=8)]
    path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in figures))
    lines = list(crowd.table(list(crowd.read(path))))
    assert len(lines) == 4
    assert "| 0.500 | 1.00 | - | - |" in lines[2]
    assert "| 8 clients | 20 | 0 | 2.000 | 4.00 | 300 | 400 |" in lines[3]


@pytest.mark.process
@pytest.mark.skipif(bool(why_no_lan()), reason=why_no_lan() or "root")
def test_a_slower_board_takes_longer_and_two_of_them_answer(tmp_path: Path) -> None:
    from peer.reports import InferQuery
    from tools.testbed.boards import Bed, boards

    root = records.ROOT
    image = (root / "docs/photos/rocket.jpg").read_bytes()
    with boards(Bed(slower=(2.0, 64.0), models=root / "models_onnx")) as bed:
        bed.rate(100.0)
        took = []
        # The fast one is late whenever other work takes this machine's cores: one quiet moment will do.
        for index, tries in ((0, 15), (1, 3)):
            query = InferQuery(inputs=("x",), mode="single", boards=1)
            took.append(min(bed.ask(query, image, index=index)[1] for _ in range(tries)))
        report, _ = bed.ask(InferQuery(inputs=("x",), mode="sequence", boards=2, shares=(1, 1)), image)
        assert took[1] > 4 * took[0]
        assert len(report.boards) == 2
        assert os.path.getsize(bed.told)
