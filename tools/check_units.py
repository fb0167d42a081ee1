"""Checks the units: systemd finds nothing to complain about, and their exposure stays low.

    python -m tools.check_units

Puts the units into a root folder of their own, beside stand-ins for the programs that they start, and asks
`systemd-analyze`. Without systemd-analyze nothing is checked, and a line says so.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

UNITS = Path(__file__).parents[1] / "systemd"
PROGRAMS = ("bin/peerd", "libexec/peerd-backoff")
MOST_EXPOSED = 1.5
MOST_EXPOSED_WITH_DEVICES = 2.0
_SYSTEM_UNITS = Path("/usr/lib/systemd/system")


def lay_out(root: Path, *, accelerator: bool) -> None:
    """A root folder that holds the units, what they refer to, and the accelerator's drop-in if wanted."""
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.path")):
        shutil.copy(unit, units)
    system = root / "usr/lib/systemd/system"
    system.mkdir(parents=True)
    for target in _SYSTEM_UNITS.glob("*.target"):
        shutil.copy(target, system)
    for program in PROGRAMS:
        stand_in = root / "opt/tokenring/current" / program
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text("#!/bin/sh\n", encoding="ascii")
        stand_in.chmod(0o755)
    if accelerator:
        for service in UNITS.glob("*.service"):
            drop_ins = units / f"{service.name}.d"
            drop_ins.mkdir()
            shutil.copy(UNITS / "accelerator.conf", drop_ins)


def complaints(root: Path) -> list[str]:
    """What `systemd-analyze verify` says about the units below `root`; its exit code alone does not tell."""
    names = [unit.name.replace("@.", "@7710.") for unit in sorted((root / "etc/systemd/system").glob("peerd*.*"))]
    names = [name for name in names if not name.endswith(".d")]
    done = _analyze("verify", f"--root={root}", "--man=no", *names)
    return [line.replace(str(root), "") for line in done.stderr.splitlines()] + [f"exit code {done.returncode}"] * (
        done.returncode != 0
    )


def exposure(root: Path, unit: str) -> float:
    """The overall exposure of a unit below `root`, 0 to 10."""
    done = _analyze("security", "--offline=true", "--no-pager", f"--root={root}", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    if found is None:
        raise SystemExit(f"systemd-analyze security says nothing about {unit}: {done.stderr.strip()}")
    return float(found[1])


def _analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=120)


def main() -> int:
    """Check everything; 1 when anything is wrong."""
    if shutil.which("systemd-analyze") is None:
        print("units NOT checked: there is no systemd-analyze here (Debian: apt install systemd)")
        return 0
    wrong = 0
    for accelerator, most in ((False, MOST_EXPOSED), (True, MOST_EXPOSED_WITH_DEVICES)):
        with tempfile.TemporaryDirectory(prefix="tokenring-") as scratch:
            lay_out(Path(scratch), accelerator=accelerator)
            for line in complaints(Path(scratch)):
                print(f"systemd-analyze verify: {line}")
                wrong += 1
            for unit in ("peerd.service", "peerd@7710.service"):
                level = exposure(Path(scratch), unit)
                verdict = "ok" if level <= most else "TOO MUCH"
                what = " with the accelerator drop-in" if accelerator else ""
                print(f"{unit}{what}: exposure {level:.1f}, at most {most:.1f}: {verdict}")
                wrong += level > most
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
