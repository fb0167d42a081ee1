"""Boards whose state folder takes nothing any more: a full disk and a read-only one. They serve on, and say so once."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cluster import Daemons, cluster
from tests.helpers.lan import Lan, lan, why_no_lan

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(why_no_lan()), reason=why_no_lan() or "runs")]

ROOT = Path(__file__).parents[2]
PHOTO = (ROOT / "docs/photos/chelsea.png").read_bytes()
LIMIT_S = 60.0
FULL, OTHER = 0, 1


@pytest.fixture
def boards() -> Iterator[Lan]:
    with lan(2) as made:
        yield made


@pytest.fixture
def daemons(boards: Lan) -> Iterator[Daemons]:
    with cluster(boards, ROOT / "models_onnx") as running:
        yield running


def small_disk(boards: Lan, daemons: Daemons) -> Path:
    """One MiB as the state folder of the first board, inside its namespace only."""
    state = daemons.folder / "state"
    state.mkdir()
    boards[FULL].run("mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", state)
    return state


def serves_on(daemons: Daemons) -> None:
    """The other board goes and comes back twice, each time with something new to write down; both answer."""
    daemons.wait(lambda: daemons.one_ring(FULL, OTHER), "one ring", LIMIT_S)
    for _ in range(2):
        assert daemons.end(OTHER, signal.SIGTERM) == 0
        daemons.start(OTHER)
        daemons.wait(lambda: daemons.one_ring(FULL, OTHER), "one ring again", LIMIT_S)
    for index in (FULL, OTHER):
        assert len(daemons.infer(index, PHOTO, boards=2, deadline_s=LIMIT_S).top) == 5


def complaints(daemons: Daemons) -> list[str]:
    return [line for line in (daemons.home(FULL) / "log").read_text().splitlines() if "cannot be written" in line]


def test_a_full_disk_is_no_reason_to_stop(boards: Lan, daemons: Daemons) -> None:
    state = small_disk(boards, daemons)
    boards[FULL].run("dd", "if=/dev/zero", f"of={state}/filler", "bs=1024", check=False)
    daemons.start(FULL, options=("--state-dir", state))
    daemons.start(OTHER)
    serves_on(daemons)
    assert [sum(word in line for line in complaints(daemons)) for word in ("no lasting id", "peers.json")] == [1, 1]
    assert boards[FULL].run("ls", "-A", state).stdout.split() == ["filler"]  # nothing half written


def test_a_disk_that_turns_read_only_is_no_reason_to_stop(boards: Lan, daemons: Daemons) -> None:
    state = small_disk(boards, daemons)
    daemons.start(FULL, options=("--state-dir", state))
    daemons.start(OTHER)
    daemons.wait(lambda: daemons.one_ring(FULL, OTHER), "one ring", LIMIT_S)
    before = boards[FULL].run("cat", f"{state}/identity.json").stdout
    boards[FULL].run("mount", "-o", "remount,ro", state)
    (daemons.home(OTHER) / "identity.json").unlink()  # it comes back as another board: something to write down
    serves_on(daemons)
    assert ["peers.json" in line for line in complaints(daemons)] == [True]
    assert boards[FULL].run("cat", f"{state}/identity.json").stdout == before
    # A start from it: under an id that lasts for this run only, since the count of starts would stay behind.
    assert daemons.end(FULL, signal.SIGTERM) == 0
    daemons.start(FULL, options=("--state-dir", state))
    serves_on(daemons)
    assert sum("no lasting id" in line for line in complaints(daemons)) == 1
