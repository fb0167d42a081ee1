"""What was measured, one line of JSON per setting, written as soon as it is there: a run that is cut goes on later."""

import json
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import onnxruntime

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardTimes:
    """Where the time of one board went in one request, milliseconds of the emulated board."""

    tokens: int
    prepare_ms: float
    compute_ms: float
    encode_ms: float
    decode_ms: float
    wait_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One setting. Times are end to end, from the file to the answer, as a client on the asked board sees them."""

    key: str
    plan: str
    model: str
    boards: int
    codec: str
    mbit: float
    slower: tuple[float, ...]
    times_ms: tuple[float, ...]
    late_ms: tuple[float, ...]  # the most that any board showed late in each of these requests
    dropped: int  # requests that were too late to count
    mode: str
    rounds: int
    payload_bytes: int
    wire_bytes: int
    input_bytes: int
    gather_ms: float
    predicted_ms: float | None
    rtt_ms: float  # between two boards, median
    costs: tuple[BoardTimes, ...]  # of the request in the middle
    machine: str
    commit: str

    @property
    def median_ms(self) -> float:
        ordered = sorted(self.times_ms)
        return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2

    @property
    def worst_ms(self) -> float:
        """p95 of so few is the largest."""
        return max(self.times_ms)


def append(path: Path, measured: Measured) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(measured)) + "\n")


def read(path: Path) -> Iterator[Measured]:
    """The last line of each setting; nothing where there is no file."""
    if not path.exists():
        return
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        fields["costs"] = tuple(BoardTimes(**each) for each in fields["costs"])
        for name in ("slower", "times_ms", "late_ms"):
            fields[name] = tuple(fields[name])
        found[fields["plan"], fields["key"]] = Measured(**fields)
    yield from found.values()


def machine() -> str:
    """This machine and what it runs, in words."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = sum(line.startswith("processor") for line in lines)
    return (
        f"{name}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"onnxruntime {onnxruntime.__version__}, numpy {numpy.__version__}"
    )


def commit() -> str:
    """The version of the tree."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
