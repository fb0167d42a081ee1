"""What the board tells of its heat and its clock rates: temperatures, frequencies, and what holds the processor back.

Reads /sys below a root it is given; what is not there is left out, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_MAX_READ = 4096
_MAX_SENSORS = 64
_COOLING = ("processor", "cpufreq", "cpufreq-cpu0")
# Raspberry Pi: bit 0 under-voltage, 1 frequency capped, 2 throttled now (firmware documentation, get_throttled).
_FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"
_FIRMWARE_BITS = ("under-voltage", "frequency capped", "throttled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency:
    """One group of cores that share a clock, hertz: now, allowed at present, possible."""

    now: int | None
    allowed: int | None
    possible: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensors:
    """Empty where the board tells nothing."""

    temperatures_c: Mapping[str, float]  # by zone
    frequencies: Mapping[str, Frequency]  # by policy
    cooling: Mapping[str, int]  # step of each device that slows the processor; 0: it does not
    firmware: Mapping[str, bool]  # what a Raspberry Pi's firmware says

    @property
    def throttled(self) -> list[str]:
        """What holds the processor back now, in words."""
        held = [f"{name} at step {step}" for name, step in self.cooling.items() if step]
        for name, frequency in self.frequencies.items():
            allowed, possible = frequency.allowed, frequency.possible
            if allowed and possible and allowed < possible:
                held.append(f"{name} at {allowed // 1_000_000} of {possible // 1_000_000} MHz")
        return held + [name for name, said in self.firmware.items() if said]


def read_sensors(root: Path = Path("/")) -> Sensors:
    """Everything that `root`/sys shows now. Blocks as long as the drivers do: milliseconds, on some boards more."""
    temperatures: dict[str, float] = {}
    cooling: dict[str, int] = {}
    for folder in sorted((root / "sys/class/thermal").glob("*"))[:_MAX_SENSORS]:
        kind = _text(folder / "type").strip()
        if folder.name.startswith("thermal_zone"):
            value = _number(folder / "temp")
            if value is not None and 0 < value < 200_000:
                temperatures[f"{folder.name}:{kind}" if kind else folder.name] = value / 1000
        elif kind.lower() in _COOLING:
            step = _number(folder / "cur_state")
            if step is not None:
                cooling[folder.name] = step
    frequencies = {}
    for folder in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))[:_MAX_SENSORS]:
        now, allowed, possible = (
            _number(folder / name) for name in ("scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq")
        )
        frequencies[folder.name] = Frequency(now=_hertz(now), allowed=_hertz(allowed), possible=_hertz(possible))
    flags = _number(root / _FIRMWARE, base=16)
    firmware = {} if flags is None else {name: bool(flags >> bit & 1) for bit, name in enumerate(_FIRMWARE_BITS)}
    return Sensors(temperatures_c=temperatures, frequencies=frequencies, cooling=cooling, firmware=firmware)


def _hertz(kilohertz: int | None) -> int | None:
    return None if kilohertz is None else kilohertz * 1000


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_READ).decode("utf-8", "replace")
    except OSError:
        return ""


def _number(path: Path, *, base: int = 10) -> int | None:
    try:
        return int(_text(path).strip(), base)
    except ValueError:
        return None
