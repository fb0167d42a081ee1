"""Doctor's probes: on a made-up /proc and /sys, on this machine's own ports, and a multicast packet that comes back."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from peer import doctor, multicast
from peer.findings import Level


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal: 4000 kB\nMemAvailable:    2048 kB\n"


def test_memory_of_both_versions_of_cgroups(tmp_path: Path) -> None:
    two = lay(
        tmp_path / "two",
        {
            "proc/meminfo": MEMINFO,
            "proc/7/cgroup": "0::/system.slice/peerd.service\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n",
            "sys/fs/cgroup/system.slice/peerd.service/memory.max": "1000\n",
            "sys/fs/cgroup/system.slice/peerd.service/memory.current": "400\n",
        },
    )
    seen = doctor.memory(two, 7)
    assert seen is not None
    assert (seen.available, seen.limit, seen.used, seen.cgroup) == (2048 * 1024, 1000, 400, 2)
    one = lay(
        tmp_path / "one",
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "9:cpu,cpuacct:/\n4:memory:/peerd\n",
            "sys/fs/cgroup/memory/peerd/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/peerd/memory.usage_in_bytes": "400\n",
        },
    )
    seen = doctor.memory(one, None)
    assert seen is not None
    assert (seen.limit, seen.used, seen.cgroup) == (None, 400, 1)
    none = doctor.memory(lay(tmp_path / "none", {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"}), None)
    assert none is not None
    assert none.cgroup is None
    assert doctor.memory(tmp_path, None) is None


def test_heat_and_what_is_held_back(tmp_path: Path) -> None:
    assert doctor.heat(tmp_path) == (None, [])
    lay(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/temp": "71234\n",
            "sys/class/thermal/thermal_zone1/temp": "-40\n",
            "sys/class/thermal/cooling_device0/type": "Processor\n",
            "sys/class/thermal/cooling_device0/cur_state": "2\n",
            "sys/class/thermal/cooling_device1/type": "fan\n",
            "sys/class/thermal/cooling_device1/cur_state": "4\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "600000\n",
            "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "1500000\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        },
    )
    assert doctor.heat(tmp_path) == (
        71.234,
        ["cooling_device0 at step 2", "policy0 at 600 of 1500 MHz", "under-voltage", "throttled"],
    )


def test_a_taken_port_is_found_with_its_owner() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        first = other.getsockname()[1]
        door = doctor.ports("127.0.0.1", first, None)[0]
        assert (door.free, door.ours, door.use) == (False, False, "door")
        assert door.owner is not None
        assert f"({os.getpid()})" in door.owner
        assert doctor.ports("127.0.0.1", first, os.getpid())[0].ours
    assert doctor.ports("127.0.0.1", first, None)[0].free


def test_multicast_comes_back_over_loopback() -> None:
    seen = multicast.probe_4("127.0.0.1")
    assert (seen.problem, seen.returned) == (None, True)


def test_multicast_from_an_address_that_is_not_here_is_a_problem() -> None:
    assert multicast.probe_4("192.0.2.77").problem is not None


def test_an_answer_to_our_question_is_told_from_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A responder on loopback under another address stands for another board."""
    monkeypatch.setattr(multicast, "_MDNS_PORT", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as board:
        board.bind(("127.0.0.1", 0))
        port = board.getsockname()[1]
        monkeypatch.setattr(multicast, "_MDNS_PORT", port)

        def ask(own: str) -> tuple[set[str], set[str]]:
            alone = multicast._datagrams(socket.AF_INET)
            alone.bind(("127.0.0.1", 0))
            return multicast._ask((alone, None), ("127.0.0.1", port), {own})

        def answer() -> None:
            question, asker = board.recvfrom(9000)
            reply = question[:2] + b"\x84\x00" + question[4:]
            board.sendto(question, asker)  # a question is no answer
            board.sendto(reply, asker)

        thread = threading.Thread(target=answer)
        thread.start()
        assert ask("127.0.0.1") == (set(), set())  # our own address
        thread.join()
        thread = threading.Thread(target=answer)
        thread.start()
        assert ask("127.0.0.2") == ({"127.0.0.1"}, set())
        thread.join()


def test_the_whole_examination_takes_less_than_five_seconds() -> None:
    began = time.monotonic()
    found = doctor.examine(
        host="127.0.0.1", port=7700, daemon_pid=None, model_bytes=1 << 50, boards=(), allowed=(), token_place=None
    )
    assert time.monotonic() - began < 5.0
    topics = {finding.topic for finding in found}
    assert topics >= {"ports", "avahi", "clock", "memory", "cpu", "heat", "limits", "onnxruntime"}
    assert [f.topic for f in found if f.topic == "memory" and f.level is Level.WRONG] == ["memory"]
    assert [f.level for f in found if f.topic == "onnxruntime"] == [Level.OK]
