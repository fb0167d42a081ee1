"""A model's plan in the words of `peerctl models`."""

from collections.abc import Sequence

from peer.protocol.types import ModelId, PeerId
from peer.reports import CodecErrorReport, CodecReport, ModelReport
from runtime.plan import CodecSpec, ModelPlan

_ID_DIGITS = 12


def model_report(plan: ModelPlan, boards: Sequence[PeerId], *, default: bool = False) -> ModelReport:
    """A model whose manifest is known; `boards` hold it."""
    return ModelReport(
        name=plan.name,
        model_id=plan.model_id,
        bytes=plan.size_bytes,
        task=plan.task,
        labels=len(plan.labels),
        tokens=plan.geometry.tokens,
        width=plan.geometry.width,
        blocks=plan.geometry.blocks,
        default=default,
        default_codec=plan.default_codec,
        boards=tuple(boards),
        provenance={
            "weights": plan.provenance.weights,
            "command": plan.provenance.command,
            "source": plan.provenance.source,
            "tools": plan.provenance.tools,
        },
        codecs=tuple(_codec_report(codec, plan.geometry.blocks, plan.geometry.width) for codec in plan.codecs),
    )


def nameless_report(model: ModelId, boards: Sequence[PeerId]) -> ModelReport:
    """A model of other boards whose manifest has not come yet: its id stands for its name, and `task` is empty."""
    return ModelReport(
        name=model[:_ID_DIGITS],
        model_id=model,
        bytes=0,
        task="",
        labels=0,
        tokens=0,
        width=0,
        blocks=0,
        default=False,
        default_codec="",
        boards=tuple(boards),
        provenance={},
        codecs=(),
    )


def _codec_report(codec: CodecSpec, blocks: int, width: int) -> CodecReport:
    bits = tuple(float(codec.bits_per_token(block)) for block in range(blocks))
    mean = sum(bits) / blocks
    return CodecReport(
        name=codec.name,
        kind=codec.kind.value,
        source=codec.source.value,
        bits_per_token=mean,
        bits_per_block=bits,
        compression=32 * width / mean,
        error=CodecErrorReport(kind=codec.error.kind, value=codec.error.value),
        points_lost=codec.points_lost,
    )
