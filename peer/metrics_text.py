"""Counters, gauges and histograms to the text that Prometheus reads (exposition format 0.0.4). Pure.

Names begin with `tokenring_`, units are base units, counters end with `_total`. Labels take few values: a board's id is
one, a request's id never is.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

PREFIX = "tokenring_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Kind(StrEnum):
    """What a value may do: only grow, go both ways, or count what fell below each bound."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One line: what the family's name is extended by, the labels, the value."""

    value: float
    labels: Mapping[str, str]
    suffix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All samples of one name; `name` goes without the prefix, `help` is one line."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]


def counter(name: str, help_: str, *samples: tuple[float, Mapping[str, str]]) -> Family:
    """A family of counters, `name` ending with `_total`, from (value, labels)."""
    return _family(name, Kind.COUNTER, help_, samples)


def gauge(name: str, help_: str, *samples: tuple[float, Mapping[str, str]]) -> Family:
    """A family of gauges from (value, labels)."""
    return _family(name, Kind.GAUGE, help_, samples)


def _family(name: str, kind: Kind, help_: str, samples: Sequence[tuple[float, Mapping[str, str]]]) -> Family:
    return Family(
        name=name,
        kind=kind,
        help=help_,
        samples=tuple(Sample(value=float(value), labels=labels) for value, labels in samples),
    )


class Histogram:
    """Counts of observations at most as large as each bound; `bounds` ascending, in the unit that is observed."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, labels: Mapping[str, str]) -> tuple[Sample, ...]:
        """Its buckets, each counting the ones below it as well, the sum and the count."""
        found, below = [], 0
        for bound, count in zip((*self._bounds, math.inf), self._counts, strict=True):
            below += count
            found.append(Sample(value=below, labels={**labels, "le": _number(bound)}, suffix="_bucket"))
        found.append(Sample(value=self._sum, labels=labels, suffix="_sum"))
        found.append(Sample(value=below, labels=labels, suffix="_count"))
        return tuple(found)


def histogram(name: str, help_: str, parts: Iterable[tuple[Histogram, Mapping[str, str]]]) -> Family:
    """A family of histograms from (histogram, labels)."""
    samples = tuple(sample for part, labels in parts for sample in part.samples(labels))
    return Family(name=name, kind=Kind.HISTOGRAM, help=help_, samples=samples)


def render(families: Iterable[Family]) -> str:
    """The page. A family without samples is left out: what a board cannot tell it does not claim to be zero."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        name = PREFIX + family.name
        lines.append(f"# HELP {name} {_escaped(family.help)}")
        lines.append(f"# TYPE {name} {family.kind}")
        for sample in family.samples:
            labels = ",".join(f'{key}="{_quoted(value)}"' for key, value in sample.labels.items())
            braced = f"{{{labels}}}" if labels else ""
            lines.append(f"{name}{sample.suffix}{braced} {_number(sample.value)}")
    return "\n".join([*lines, ""])


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")
