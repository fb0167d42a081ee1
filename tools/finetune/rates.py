"""Names of codecs that can be fine-tuned, taken apart.

tcBITS (transform), vqGxK (grouped codebooks), each of K|V or, with -normed, after LN1; astra-gG (block input, 1024
codes); oqGxK (codebooks after a rotation); rqGxKxS (residual codebooks: S stages, and as many rates); fsNxB (a learned
bottleneck of N components with 2**B even levels each); ptcBITS and pvqBITS (a transform, one codebook of what codes of
earlier blocks do not foretell); ptcBITSxE (the same, with one exchange for E blocks).
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from tools.export.codec_entry import Source
from tools.export.predictive import MOST_BITS, MOST_BOOK

ASTRA_CODES = 1024


class Form(StrEnum):
    """How a vector becomes indices."""

    CODEBOOK = "codebook"
    TRANSFORM = "transform"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One codec."""

    name: str
    form: Form
    source: Source
    groups: int = 0
    codes: int = 0
    stages: int = 1
    rotated: bool = False
    bits: int = 0  # transform: of a token
    components: int = 0  # transform: learned, with even levels; 0: as many as the bits deserve
    predictive: bool = False
    every: int = 1  # predictive transform: so many blocks share one exchange

    @property
    def kind(self) -> str:
        """What tools.export.tuned calls it."""
        return f"predictive-{self.form.value}" if self.predictive else self.form.value

    @property
    def token_bits(self) -> int:
        """Bits per token and block."""
        if self.form is Form.TRANSFORM or self.predictive:
            return self.bits  # of a predictive codebook: on average over the blocks
        return self.groups * self.stages * (self.codes - 1).bit_length()


_PATTERN = re.compile(r"(tc|vq|oq|rq|fs)(\d+)(?:x(\d+))?(?:x(\d+))?(-normed)?")


def parse_rate(name: str) -> Rate:
    """Raises ValueError for a name that is no codec to be fine-tuned."""
    if found := re.fullmatch(r"astra-g(\d+)", name):
        return Rate(name=name, form=Form.CODEBOOK, source=Source.INPUT, groups=int(found[1]), codes=ASTRA_CODES)
    if (found := re.fullmatch(r"ptc(\d+)(?:x([1-9]))?", name)) and 1 <= int(found[1]) <= MOST_BITS:
        every = int(found[2] or 1)
        return Rate(name=name, form=Form.TRANSFORM, source=Source.KV, bits=int(found[1]), predictive=True, every=every)
    if (found := re.fullmatch(r"pvq(\d+)", name)) and 2 <= int(found[1]) <= MOST_BOOK:
        return Rate(name=name, form=Form.CODEBOOK, source=Source.KV, groups=1, bits=int(found[1]), predictive=True)
    found = _PATTERN.fullmatch(name)
    numbers = [int(found[index]) for index in (2, 3, 4) if found[index]] if found else []
    source = Source.NORMED if found and found[5] else Source.KV
    match found[1] if found else "", numbers:
        case "tc", [bits]:
            return Rate(name=name, form=Form.TRANSFORM, source=source, bits=bits)
        case "fs", [components, each]:
            bits = components * each
            return Rate(name=name, form=Form.TRANSFORM, source=source, bits=bits, components=components)
        case ("vq" | "oq") as kind, [groups, codes]:
            rotated = kind == "oq"
            return Rate(name=name, form=Form.CODEBOOK, source=source, groups=groups, codes=codes, rotated=rotated)
        case "rq", [groups, codes, stages]:
            return Rate(name=name, form=Form.CODEBOOK, source=source, groups=groups, codes=codes, stages=stages)
    raise ValueError(
        f"{name} is no codec to fine-tune: tcBITS vqGxK oqGxK rqGxKxS fsNxB (-normed), ptcBITS[xE] pvqBITS astra-gG"
    )
