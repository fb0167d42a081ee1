"""Rows as Markdown: one table per way of sharing tokens out, a line per codec, a column per number of boards."""

from collections.abc import Iterable, Sequence

from tools.evaluate.rows import Row, Split

_MARK = "†"


def best_rows(rows: Iterable[Row]) -> list[Row]:
    """Of rows under the same condition the one on most pictures (then the last one)."""
    best: dict[tuple[object, ...], Row] = {}
    for row in rows:
        known = best.get((row.condition,))
        if known is None or row.images >= known.images:
            best[row.condition,] = row
    return list(best.values())


def undivided(rows: Iterable[Row]) -> dict[int, Row]:
    """The undivided network's row for each number of pictures."""
    return {row.images: row for row in rows if not row.codec}


def tables(rows: Sequence[Row], *, default: str) -> list[str]:
    """Markdown lines: accuracy in per cent, in brackets points against the undivided network on the same pictures."""
    whole = undivided(rows)
    shown = [row for row in best_rows(rows) if row.codec and row.images in whole]
    lines: list[str] = []
    for split in Split:
        own = [row for row in shown if row.split == split and row.boards > 1]
        if own:
            lines += [_TITLES[split], "", *_table(own, whole, default), ""]
    subsets = sorted({row.images for row in shown if row.images < row.all_images})
    if subsets:
        lines += [f"{_MARK} on a subset of {' or '.join(map(str, subsets))} test pictures, evenly spread.", ""]
    return lines


_TITLES = {
    Split.EVEN: "Even shares:",
    Split.UNEVEN: "Random contiguous shares of at least one token, drawn anew for every batch of 25 pictures:",
}


def _table(rows: Sequence[Row], whole: dict[int, Row], default: str) -> list[str]:
    counts = sorted({row.boards for row in rows if not row.lost})
    losing = sorted({(row.boards, row.anew) for row in rows if row.lost})
    heads = ["codec", "bits", "compression", *(f"{n} boards" for n in counts)]
    heads += [f"{n}, one lost, anew if early" if anew else f"{n}, one lost" for n, anew in losing]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    cells = {(row.codec, row.boards, row.lost, row.anew): row for row in rows}
    for codec in dict.fromkeys(row.codec for row in sorted(rows, key=lambda row: (-row.bits, row.codec))):
        first = next(row for row in rows if row.codec == codec)
        columns = [(count, False, False) for count in counts] + [(count, True, anew) for count, anew in losing]
        texts = [_cell(cells.get((codec, *column)), whole) for column in columns]
        name = f"**{codec}**" if codec == default else codec
        lines.append(f"| {name} | {first.bits:g} | {first.compression:g} | {' | '.join(texts)} |")
    return lines


def _cell(row: Row | None, whole: dict[int, Row]) -> str:
    if row is None:
        return "-"
    lost = row.accuracy - whole[row.images].accuracy
    return f"{row.accuracy:.2f} ({lost:+.2f}){_MARK if row.images < row.all_images else ''}"
