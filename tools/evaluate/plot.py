"""Accuracy against bits per token as a small SVG; the same rows give the same bytes."""

from collections.abc import Sequence
from pathlib import Path

from tools.evaluate.rows import Row, Split
from tools.evaluate.table import best_rows, undivided

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by everybody


def plot(rows: Sequence[Row], path: Path, *, title: str, boards: Sequence[int] = (2, 4, 8)) -> None:
    """Write the curve of every codec with even shares, and the undivided network as a line."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra, wanted by nobody who only evaluates

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib import ticker  # noqa: PLC0415

    mpl.rcParams.update({"svg.hashsalt": "tokenring", "svg.fonttype": "none", "font.size": 9})
    whole = undivided(rows)
    best = [row for row in best_rows(rows) if row.images in whole]
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    for colour, count in zip(_COLOURS, boards, strict=False):
        own = [row for row in best if row.boards == count and row.codec and row.split == Split.EVEN and not row.lost]
        own.sort(key=lambda row: (row.bits, -row.accuracy))
        for part in (False, True):  # measured on a subset of the test pictures: hollow
            shown = [row for row in own if (row.images < row.all_images) is part]
            if shown:
                axes.plot(
                    [row.bits for row in shown],
                    [row.accuracy for row in shown],
                    marker="o",
                    markersize=3.5,
                    markerfacecolor="none" if part else colour,
                    linestyle="none",
                    color=colour,
                    label=f"{count} boards{', subset' if part else ''}",
                )
        # The upper hull of what is on offer: a codec below it has a better one at no more bits.
        edge = [row for place, row in enumerate(own) if all(row.accuracy > other.accuracy for other in own[:place])]
        axes.plot([row.bits for row in edge], [row.accuracy for row in edge], color=colour, linewidth=1)
        if count == max(boards):
            for row in edge:
                axes.annotate(
                    row.codec, (row.bits, row.accuracy), (3, -9), textcoords="offset points", fontsize=7, color=colour
                )
    if whole:
        level = whole[max(whole)].accuracy
        axes.axhline(level, color="black", linewidth=0.8, linestyle="--", label=f"undivided {level:.2f} %")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.set(xlabel="bits per content token and block", ylabel="test accuracy, %", title=title)
    axes.grid(visible=True, linewidth=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
