"""Mean and spread of the same codecs in several models: fine-tuned with different seeds."""

from collections.abc import Sequence
from statistics import mean, stdev

from tools.evaluate.rows import Condition, Row
from tools.evaluate.table import best_rows, undivided


def spread(models: Sequence[Sequence[Row]]) -> list[str]:
    """Markdown table of the points lost against each model's own undivided network, mean ± standard deviation.

    Only conditions that every model was measured under, with more than one board.
    """
    losses: dict[Condition, list[float]] = {}
    bits: dict[str, float] = {}
    for rows in models:
        whole = undivided(rows)
        for row in best_rows(rows):
            if row.codec and row.boards > 1 and row.images in whole:
                losses.setdefault(row.condition, []).append(whole[row.images].accuracy - row.accuracy)
                bits[row.codec] = row.bits
    common = {condition: found for condition, found in losses.items() if len(found) == len(models) > 1}
    if not common:
        return []
    accuracies = [whole[max(whole)].accuracy for whole in map(undivided, models)]
    lines = [
        f"{len(models)} seeds; undivided {mean(accuracies):.2f} ± {stdev(accuracies):.2f} %. Points lost, mean ± "
        "standard deviation:",
        "",
        "| codec | bits | boards | shares | points lost |",
        "|---|---|---|---|---|",
    ]
    order = sorted(
        common, key=lambda each: (-bits[each.codec], each.codec, each.split, each.lost, each.anew, each.boards)
    )
    for each in order:
        found = common[each]
        shares = f"{each.split}, one lost{', anew if early' if each.anew else ''}" if each.lost else each.split.value
        lost = f"{mean(found):.2f} ± {stdev(found):.2f}"
        lines.append(f"| {each.codec} | {bits[each.codec]:g} | {each.boards} | {shares} | {lost} |")
    return [*lines, ""]
