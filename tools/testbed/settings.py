"""What is measured: settings, and plans of them. A plan is one set of boards; its settings are taken in turns.

`python -m tools.testbed measure --plan NAME` runs one; NAMES lists them.
"""

from dataclasses import dataclass, replace

OURS = ("tc53", "ptc53x2", "tc320")
CHOICE = ("tc53", "tc160", "tc320")  # the planner does not trade accuracy for rounds by itself
SILENT = ("ptc53", "ptc53x2", "ptc53x3")
VOLTAGE = ("f32-input", "f16-input", "int8-input", "int4-input")  # all-gather of block inputs, K and V recomputed
ASTRA = ("astra-g1", "astra-g16", "astra-g32")  # as published
RATES = (10.0, 100.0, 1000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to run a model on some of the boards."""

    model: str
    boards: int
    codec: str = ""  # empty: one board, or the default where the planner chooses (`boards` is 0)
    mbit: float = 100.0
    asked: int = 0  # the board that is asked
    weights: tuple[float, ...] = ()  # shares in the order of the boards' numbers; empty: even ones
    times: int = 4

    @property
    def key(self) -> str:
        shares = ":".join(f"{w:g}" for w in self.weights)
        return f"{self.model} {self.boards} {self.codec or '-'} {self.mbit:g} {self.asked} {shares}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Boards, and what they are to run."""

    slower: tuple[float, ...]
    settings: tuple[Setting, ...]

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(setting.model for setting in self.settings))

    @property
    def codecs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(setting.codec for setting in self.settings if setting.codec))


def _rates(*settings: Setting, rates: tuple[float, ...] = RATES) -> tuple[Setting, ...]:
    return tuple(replace(setting, mbit=rate) for rate in rates for setting in settings)


def _compared(size: str, counts: tuple[int, ...], codecs: tuple[str, ...] = OURS) -> tuple[Setting, ...]:
    """One board with both kinds of weights, ours on `counts` boards with int8 weights."""
    alone = [Setting(model=model, boards=1) for model in (size, f"{size}-int8")]
    return (*alone, *(Setting(model=f"{size}-int8", boards=n, codec=c) for n in counts for c in codecs))


def _alternatives(size: str, boards: int) -> tuple[Setting, ...]:
    model = f"{size}-int8"
    return tuple(
        Setting(model=model, boards=boards, codec=c, times=2) for c in (*_FEW, "int8", "int4", *VOLTAGE, *ASTRA)
    )


def _few(model: str, codec: str) -> tuple[Setting, ...]:
    return tuple(Setting(model=model, boards=n, codec=codec if n > 1 else "", times=3) for n in (1, 2, 4))


def _tokens(counts: tuple[int, ...]) -> tuple[Setting, ...]:
    models = [f"vit-small-{count}-int8" for count in counts]
    return tuple(
        Setting(model=m, boards=n, codec="ptc53x2" if n > 1 else "", times=3) for m in models for n in (1, 2, 4)
    )


def _rounds(counts: tuple[int, ...]) -> tuple[Setting, ...]:
    model = f"{_BASE}-int8"
    ours = (Setting(model=model, boards=n, codec=c, times=3) for n in counts for c in ("tc53", *SILENT))
    return (Setting(model=model, boards=1, times=3), *ours)


_BASE, _FEW = "vit-base-197", ("tc53", "ptc53x2")
# Speeds 1:1:2:4, where each board's fixed work per block counts: in proportion, the slow ones would be last by far.
_FAIR = (15.0, 15.0, 49.0, 117.0)
PLANS = {
    # The table of the README: equal boards, three rates.
    "base": Plan(slower=(8.0,) * 4, settings=_rates(*_compared(_BASE, (2, 4)))),
    "alternatives": Plan(
        slower=(8.0,) * 4,
        settings=_rates(Setting(model=f"{_BASE}-int8", boards=1, times=2), *_alternatives(_BASE, 4)),
    ),
    "eight": Plan(
        slower=(16.0,) * 8,
        settings=_rates(
            Setting(model=f"{_BASE}-int8", boards=1, times=3),
            *(Setting(model=f"{_BASE}-int8", boards=8, codec=c, times=3) for c in _FEW),
        ),
    ),
    # One exchange for one, two and three blocks at the same bits.
    "rounds": Plan(slower=(8.0,) * 4, settings=_rates(*_rounds((2, 4)))),
    "rounds-eight": Plan(slower=(16.0,) * 8, settings=_rates(*_rounds((8,)))),
    "unequal": Plan(
        slower=(32.0, 32.0, 16.0, 8.0),
        settings=_rates(
            Setting(model=f"{_BASE}-int8", boards=1, asked=3, times=3),
            *(Setting(model=f"{_BASE}-int8", boards=0, codec=c, asked=3, times=3) for c in ("", "ptc53x3")),
            *(
                Setting(model=f"{_BASE}-int8", boards=4, codec=c, asked=3, weights=_FAIR, times=3)
                for c in ("tc53", "ptc53x3")
            ),
        ),
    ),
    "small": Plan(slower=(8.0,) * 4, settings=_compared("vit-small-257", (2, 4), ("tc160", "ptc53x2"))),
    "long": Plan(
        slower=(8.0,) * 4, settings=(*_few("vit-base-1025-int8", "tc320"), *_few("vit-base-1025-int8", "ptc53x2")[1:])
    ),
    "shipped": Plan(
        slower=(8.0,) * 4,
        settings=(*_few("vit-cifar10", "ptc53"), *_few("vit-cifar10", "ptc53x2")[1:]),
    ),
    "boards": Plan(
        slower=(32.0,) * 16,
        settings=tuple(
            Setting(model=f"{_BASE}-int8", boards=n, codec="ptc53x2" if n > 1 else "", times=3)
            for n in (1, 2, 3, 4, 6, 8, 12, 16)
        ),
    ),
    "tokens": Plan(slower=(8.0,) * 4, settings=_tokens((65, 197, 577, 1025, 2117))),
    "planner": Plan(
        slower=(8.0,) * 4,
        settings=_rates(
            Setting(model=f"{_BASE}-int8", boards=0),
            Setting(model=f"{_BASE}-int8", boards=1),
            *(Setting(model=f"{_BASE}-int8", boards=n, codec=c) for n in (2, 3, 4) for c in CHOICE),
        ),
    ),
}
