"""Curves and bars of what was measured, as SVG; the same rows give the same bytes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.testbed.compare import shares, speed_up
from tools.testbed.records import Measured

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")  # Okabe and Ito
_PARTS = ("compute", "encode", "decode", "wait", "rest")
Line = tuple[str, Sequence[tuple[float, float]]]


def _draw(path: Path, draw: Callable[[Any], None], **labels: str) -> None:  # Any: matplotlib's axes
    import matplotlib as mpl  # noqa: PLC0415 - an extra, wanted by nobody who only measures

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.rcParams.update({"svg.hashsalt": "tokenring", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    draw(axes)
    axes.set(**labels)
    axes.grid(visible=True, linewidth=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def curves(path: Path, lines: Sequence[Line], *, logarithmic: bool, title: str, xlabel: str) -> None:
    """Speed-ups over one board against something; the dashed line is one board alone."""

    def draw(axes: Any) -> None:  # Any: as above
        for colour, (name, points) in zip(_COLOURS * 3, lines, strict=False):
            ordered = sorted(points)
            axes.plot(
                [x for x, _ in ordered],
                [y for _, y in ordered],
                marker="o",
                markersize=3.5,
                linewidth=1,
                color=colour,
                label=name,
            )
        axes.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
        if logarithmic:
            axes.set_xscale("log")
        axes.set_ylim(bottom=0)

    _draw(path, draw, title=title, xlabel=xlabel, ylabel="times as fast as one board")


def rounds(path: Path, rows: Sequence[Measured], *, title: str) -> None:
    """Where the time of a request goes, per round of the exchange."""

    def draw(axes: Any) -> None:  # Any: as above
        names = [f"{row.boards} boards\n{row.codec}\n{row.mbit:g} Mbit/s" for row in rows]
        floor = [0.0] * len(rows)
        for colour, part in zip(_COLOURS, _PARTS, strict=False):
            heights = [getattr(shares(row), f"{part}_ms") / max(1, row.rounds) for row in rows]
            axes.bar(names, heights, bottom=floor, color=colour, label=part, width=0.6)
            floor = [low + height for low, height in zip(floor, heights, strict=True)]
        axes.tick_params(axis="x", labelsize=6)

    _draw(path, draw, title=title, ylabel="ms per round, emulated board")


def speed_ups(
    rows: Sequence[Measured], chosen: Sequence[Measured], x: Callable[[Measured], float]
) -> list[tuple[float, float]]:
    """Points of one curve."""
    points = []
    for row in chosen:
        gain = speed_up(rows, row)
        if gain is not None:
            points.append((x(row), gain))
    return points
