"""What the boot test asks of a machine with tokenring on it."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.boot.machine import BootFailure, Machine

UNIT = "peerd.service"
# Emulated processors start Python thirty times as slowly as this machine's own, and a busy one slower still.
SLOW_S = 3600.0
_SCALED = """mkdir -p /etc/systemd/system/peerd.service.d
printf '[Service]\\nTimeoutStartSec=1800\\nTimeoutStopSec=120\\n' >/etc/systemd/system/peerd.service.d/emulated.conf
systemctl daemon-reload
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """A machine with the daemon."""

    machine: Machine

    def scale(self) -> None:
        """Allow for the emulated processor: the start may take longer. The watchdog's time stays the product's."""
        self.machine.run(_SCALED, SLOW_S)

    def properties(self, *names: str) -> dict[str, str]:
        """Properties of the unit."""
        shown = self.machine.run(f"systemctl show --property={','.join(names)} {UNIT}", SLOW_S).out
        return dict(line.partition("=")[::2] for line in shown.splitlines())

    def uptime_s(self) -> float:
        return float(self.machine.run("cut -d' ' -f1 /proc/uptime", SLOW_S).out)

    def alive(self) -> set[str]:
        """Names of the boards that this one holds alive; empty while it does not answer."""
        done = self.machine.run("peerctl members --json --timeout 60", SLOW_S, check=False)
        if done.code:
            return set()
        members: list[dict[str, Any]] = json.loads(done.out)  # Any: the command's JSON
        return {str(member["name"]) for member in members if member["status"] == "alive"}

    def infer(self, boards: int) -> dict[str, Any]:  # Any: the command's JSON
        """One picture over so many boards, with codes that change no answer."""
        choices = f"--boards {boards} --codec f32 --deadline 300 --timeout 600"
        command = f"peerctl infer /mnt/host/photo.png {choices} --json"
        answer: dict[str, Any] = json.loads(self.machine.run(command, SLOW_S).out.splitlines()[0])
        return answer

    def answers_over(self, boards: int) -> bool:
        """Whether so many boards can serve at present."""
        try:
            return len(self.infer(boards)["boards"]) == boards
        except BootFailure:
            return False

    def refused_calls(self) -> list[str]:
        """What the kernel's audit says of processes that a filter of system calls stopped in this boot."""
        return self.machine.run("journalctl -k --no-pager | grep 'type=1326' || true", 300).out.splitlines()

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = SLOW_S) -> float:
        """Until it holds; the seconds that this took."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > timeout_s:
                said = self.machine.run(
                    f"systemctl status {UNIT} --no-pager; journalctl -n 30 --no-pager", 120, check=False
                )
                raise BootFailure(f"{self.machine.name}: {what} did not come about in {timeout_s:.0f} s\n{said.out}")
            time.sleep(1)
        return time.monotonic() - started

    def wait_active(self) -> float:
        """Until systemd calls the daemon ready."""
        return self.wait(lambda: self.properties("ActiveState")["ActiveState"] == "active", "an active daemon")

    def seconds_between(self, first: str, second: str) -> float | None:
        """Between the last two lines of the unit's journal that contain these words, by the machine's own clock."""
        shown = self.machine.run(f"journalctl --unit {UNIT} --output=json --no-pager --lines=400", SLOW_S).out
        at: dict[str, float] = {}
        for line in shown.splitlines():
            entry = json.loads(line)
            for words in (first, second):
                if words in str(entry.get("MESSAGE")):
                    at[words] = int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6
        return at[second] - at[first] if len(at) == 2 else None


def expect(condition: bool, what: str) -> None:
    """BootFailure unless `condition`."""
    if not condition:
        raise BootFailure(what)
