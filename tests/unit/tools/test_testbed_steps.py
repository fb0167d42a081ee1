"""What a step of an emulated board is charged with, and that such a board has no matrix unit."""

import errno
import json
import platform
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tools.export.calibration import Calibration
from tools.export.random_vit import TINY, random_tensors
from tools.export.vit import export_model
from tools.testbed import slow_compute
from tools.testbed.learn import cases
from tools.testbed.settings import Setting
from tools.testbed.slow_core import SlowCore
from tools.testbed.usual_times import Notebook, UsualTimes, read

real_step = SlowCore.step
KIND = ("a model", "attend", (1, 50, 768))


def test_a_step_is_charged_with_the_median_so_far_where_nothing_was_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESTBED_LEARNED", raising=False)
    times = UsualTimes()
    assert [times.note(KIND, took_s) for took_s in (3.0, 1.0, 2.0)] == [3.0, 2.0, 2.0]
    assert times.note("another", 9.0) == 9.0


def test_what_was_learned_at_full_speed_is_charged_however_long_a_slowed_one_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "steps.jsonl"
    for took_s in (1.0, 9.0):  # two processes, one file
        notes = Notebook(file)
        notes.add(KIND, took_s)
        notes.add(KIND, 2.0)
        notes.add("seldom", took_s)
    assert read(file) == {repr(KIND): 2.0}
    monkeypatch.setenv("TESTBED_LEARNED", str(file))
    slowed = UsualTimes()
    assert [slowed.note(KIND, 3.0), slowed.note(KIND, 3.5)] == [2.0, 2.0]
    assert slowed.note("seldom", 4.0) == 4.0


def test_every_boards_part_of_a_plan_is_learned_once() -> None:
    even = Setting(model="m", boards=4, codec="tc53")
    uneven = Setting(model="m", boards=2, codec="tc53", weights=(1.0, 3.0))
    alone = Setting(model="m", boards=1)
    assert cases([alone, even, uneven, even], 196) == (
        ("tc53", 49, (49, 49, 49)),
        ("tc53", 49, (147,)),
        ("tc53", 147, (49,)),
    )


def test_a_shards_parts_are_learned_as_a_whole_and_each_once(tmp_path: Path) -> None:
    shape = replace(TINY, blocks=4)
    rows = np.random.default_rng(4).integers(0, 256, (30, shape.tokens, shape.row_bytes), dtype=np.uint8)
    folder = export_model(
        random_tensors(shape, seed=4),
        shape,
        name="four",
        labels=list("abcde"),
        out=tmp_path / "four",
        codecs=["f32", "ptc8x2"],
        calibration=Calibration(rows=rows),
    )
    out = tmp_path / "steps.jsonl"
    case = "ptc8x2:5:5+6"
    command = [sys.executable, "-m", "tools.testbed.learn", "--model", str(folder), "--cases", case, "--out", str(out)]
    subprocess.run(command, check=True)
    seen = Counter(json.loads(line)[0] for line in out.read_text().splitlines())
    own = "('four', 'ptc8x2',"
    passes = seen[f"{own} 'attend', 1, 5, (5, 6), False, 2, False)"]
    assert passes == 7
    assert seen[f"{own} 'attend', 1, 5, (5, 6), False, 2, True)"] == passes  # the last blocks have less to do
    # `attend` makes sure of the queries, which are there: nobody takes that for computing them.
    assert seen[f"{own} 'query', 1, 5, False)"] == 2 * passes
    assert not [kind for kind in seen if "'ptc8x2.attend'" in kind and "(1, 6, 32)" in kind]  # parts of a part


def test_nothing_is_learned_from_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == {}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has AMX")
def test_an_emulated_board_is_refused_the_matrix_unit_and_nothing_else() -> None:
    script = """
import ctypes, json
from tools.testbed.plain_core import go_without_matrix_unit
libc = ctypes.CDLL(None, use_errno=True)
def asked(operation):
    ctypes.set_errno(0)
    libc.syscall(158, operation, 18)
    return ctypes.get_errno()
before = asked(0x1023), asked(0x7777)
done = go_without_matrix_unit()
print(json.dumps([done, *before, asked(0x1023), asked(0x7777)]))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    done, before, other_before, after, other_after = json.loads(ran.stdout)
    assert done
    assert before != errno.EPERM
    assert after == errno.EPERM
    assert other_after == other_before != errno.EPERM


def test_a_step_within_a_step_is_part_of_it_and_decoding_is_told_as_the_slower_boards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TESTBED_CORE", str(tmp_path / "core"))
    monkeypatch.setattr("tools.testbed.slow_core.be_urgent", lambda: False)
    core, begun = SlowCore(8.0), list[object]()
    monkeypatch.setattr(SlowCore, "here", True)
    monkeypatch.setattr(SlowCore, "step", lambda self, kind: begun.append(kind) or real_step(core, kind))
    monkeypatch.setattr(slow_compute, "part_kind", lambda name, *_: name)
    core.ledger.begin(time.monotonic(), time.process_time())

    class Part:
        decode_s = 1.0

        def attend(self) -> str:
            self.decode_s += 0.5
            return stage()

    stage = slow_compute._step(core, lambda: "run", lambda: "stage")
    monkeypatch.setattr(slow_compute, "Shard", Part)
    part = Part()
    assert slow_compute._part(core, "attend")(part) == "run"
    assert part.decode_s == 1.0 + 8 * 0.5
    assert stage() == "run"
    assert begun == ["attend", "stage"]
    assert not core.in_step


def test_a_board_measures_itself_by_its_own_clock_even_if_it_was_kept_from_the_core(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TESTBED_CORE", str(tmp_path / "core"))
    monkeypatch.setattr("tools.testbed.slow_core.be_urgent", lambda: False)
    wall, spent = [10.0], [2.0]
    monkeypatch.setattr("tools.testbed.slow_core.time.monotonic", lambda: wall[0])
    monkeypatch.setattr("tools.testbed.slow_core.time.process_time", lambda: spent[0])
    core = SlowCore(8.0)
    core.ledger.begin(0.0, 0.0)  # long due: it was kept waiting, and would catch up

    def step() -> None:
        wall[0] += 7.0  # others had the core
        spent[0] += 0.5

    assert [core.timed(step), core.timed(step)] == [4.0, 4.0]
