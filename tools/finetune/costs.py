"""Multiplications that a codec costs a board per token and block; look-ups and comparisons are not counted."""

from dataclasses import dataclass

from tools.export.codec_entry import Source
from tools.export.predictive import default_state
from tools.finetune.rates import Form, Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Multiply-accumulates, exact for the graphs that tools.export writes."""

    encode: int  # of an own token
    decode: int  # of a token of another board, until its keys and values are ready


def cost(rate: Rate, width: int, components: int) -> Cost:
    """`width` is D; `components`: how many a transform sends."""
    source = width * (2 if rate.source is Source.KV else 1)
    if rate.predictive:
        state = default_state(source, rate.bits)
        sent = 1 << rate.bits if rate.groups else components  # read off what LN1 leaves
        onward = state * state + (0 if rate.groups else components * state)  # codes of a codebook are looked up
        return Cost(encode=(width + state) * sent + onward, decode=onward + state * source)
    match rate.form, rate.source:
        case Form.TRANSFORM, _:  # after LN1 the projection is folded into the way back
            return Cost(encode=source * components, decode=components * 2 * width)
        case _, Source.INPUT:  # the paper's way: LayerNorm and projection of every remote token again
            back = 2 * width * width
        case _, Source.NORMED:  # tables of projected codes: additions only
            back = 0
        case _:
            back = source * source if rate.rotated else 0
    search = rate.stages * rate.codes * source  # every code of every group with its part of the vector
    turn = source * source if rate.rotated else 0
    return Cost(encode=search + turn, decode=back)
