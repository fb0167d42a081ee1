"""The ablation table: rows of one variant brought together over their seeds, as Markdown."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from tools.finetune.costs import cost
from tools.finetune.measure import Case
from tools.finetune.rates import parse_rate

Row = dict[str, Any]  # Any: a JSON object that tools.finetune.ablate has written


def table(rows: Sequence[Row], cases: Sequence[Case], *, width: int) -> str:
    """One line per variant, codec and number of steps: accuracy in percent, mean and, with several seeds, spread."""
    head = ["variant", "codec", "bits", "compression", "steps", "seeds", "undivided", *(case.name for case in cases)]
    head += ["encode MACs", "decode MACs"]
    lines = [head, ["---"] * len(head)]
    groups: dict[tuple[str, str, int, int], list[Row]] = {}
    for row in rows:
        for codec in row["recipe"]["codecs"]:
            groups.setdefault((row["variant"], codec, row["recipe"]["steps"], row["images"]), []).append(row)
    for (variant, codec, steps, _), same in groups.items():
        rate = parse_rate(codec)
        costs = cost(rate, width, same[0].get(f"{codec} components", 0))
        lines.append(
            [
                variant,
                codec,
                f"{rate.token_bits}",
                f"{32 * width / rate.token_bits:.1f}x",
                f"{steps}",
                f"{len(same)}",
                _figure([row["whole"] for row in same]),
                *(_figure([row[f"{codec} {case.name}"] for row in same]) for case in cases),
                f"{costs.encode}",
                f"{costs.decode}",
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _figure(values: Sequence[float]) -> str:
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
