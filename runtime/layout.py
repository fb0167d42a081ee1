"""Which graphs a format 1 model consists of, and what each one's tensors must look like for a given geometry.

The stages cut a pre-norm Vision Transformer exactly where tokens have to travel (ASTRA, arXiv 2505.19342, sec. 3):
one exchange per block, between `query.l` (needs own tokens only) and `attend.l` (needs everybody's keys and values).
`attend.l` already computes the next block's keys and values, so a block costs two graph calls around its exchange.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from runtime.fields import refuse
from runtime.plan import DType, Geometry, StageSpec, TensorSpec

_F32, _U8, _I64 = DType.F32, DType.U8, DType.I64


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Name, type and shape of a tensor; `None` stands for a dimension that varies."""

    name: str
    dtype: DType
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedStage:
    """One graph with the tensors it must have, in this order."""

    name: str
    inputs: tuple[Expected, ...]
    outputs: tuple[Expected, ...]


def _tensor(name: str, *shape: int | None, dtype: DType = _F32) -> Expected:
    return Expected(name=name, dtype=dtype, shape=shape)


def sharded_stages(geometry: Geometry, labels: int) -> Iterator[ExpectedStage]:
    """The stages of a divided forward pass, in the order of their use."""
    width, last = geometry.width, geometry.blocks - 1
    x, h, kv = _tensor("x", None, None, width), _tensor("h", None, None, width), _tensor("kv", None, None, 2 * width)
    rows = _tensor("rows", None, None, geometry.row_bytes, dtype=_U8)
    yield ExpectedStage(name="embed", inputs=(rows, _tensor("start", 1, dtype=_I64)), outputs=(x, h, kv))
    following = (
        _tensor("x_next", None, None, width),
        _tensor("h_next", None, None, width),
        _tensor("kv_next", None, None, 2 * width),
    )
    cls = _tensor("cls", None, width)
    for block in range(geometry.blocks):
        # Nothing after the last block reads content tokens: there only the class token asks (1 query row).
        q = _tensor("q", None, 1 if block == last else None, width)
        yield ExpectedStage(name=f"query.{block}", inputs=(h,), outputs=(q,))
        remote = _tensor("remote", None, None, 2 * width)
        yield ExpectedStage(
            name=f"attend.{block}", inputs=(x, q, kv, remote), outputs=(cls,) if block == last else following
        )
    yield ExpectedStage(name="head", inputs=(cls,), outputs=(_tensor("logits", None, labels),))


def other_stages(geometry: Geometry, labels: int) -> Iterator[ExpectedStage]:
    """`project.l` (block inputs to keys and values, for codecs that yield inputs) and the undivided model."""
    width = geometry.width
    for block in range(geometry.blocks):
        yield ExpectedStage(
            name=f"project.{block}",
            inputs=(_tensor("source", None, None, width),),
            outputs=(_tensor("kv", None, None, 2 * width),),
        )
    rows = _tensor("rows", None, geometry.tokens, geometry.row_bytes, dtype=_U8)
    yield ExpectedStage(name="whole", inputs=(rows,), outputs=(_tensor("logits", None, labels),))


def check_stages(stages: tuple[StageSpec, ...], geometry: Geometry, labels: int, *, project: bool) -> None:
    """Refuse (PlanError) a list of stages that is incomplete, out of order, or does not fit the geometry."""
    main = list(sharded_stages(geometry, labels))
    others = {stage.name: stage for stage in other_stages(geometry, labels)}
    for index, expected in enumerate(main):
        if index >= len(stages) or stages[index].name != expected.name:
            refuse(f"stages[{index}]", f"stage {expected.name!r} is expected here")
        _check_stage(stages[index], expected, f"stages[{index}]")
    seen: set[str] = set()
    for index, stage in enumerate(stages[len(main) :], start=len(main)):
        if stage.name not in others or stage.name in seen:
            refuse(f"stages[{index}]", f"stage {stage.name!r} is unknown here or stands twice")
        seen.add(stage.name)
        _check_stage(stage, others[stage.name], f"stages[{index}]")
    needed = set(others) if project else {"whole"}
    if needed - seen:
        refuse("stages", f"stage {min(needed - seen)!r} is missing")


def _check_stage(stage: StageSpec, expected: ExpectedStage, where: str) -> None:
    _check_tensors(stage.inputs, expected.inputs, f"{where}.inputs")
    _check_tensors(stage.outputs, expected.outputs, f"{where}.outputs")


def _check_tensors(tensors: tuple[TensorSpec, ...], expected: tuple[Expected, ...], where: str) -> None:
    if [t.name for t in tensors] != [e.name for e in expected]:
        refuse(where, f"the tensors {', '.join(e.name for e in expected)} are expected, in this order")
    for tensor, want in zip(tensors, expected, strict=True):
        if tensor.dtype is not want.dtype:
            refuse(f"{where}, {tensor.name}", f"type {want.dtype.value} is expected")
        if len(tensor.shape) != len(want.shape):
            refuse(f"{where}, {tensor.name}", f"{len(want.shape)} dimensions are expected")
        for found, size in zip(tensor.shape, want.shape, strict=True):
            fits = type(found) is str if size is None else found == size
            if not fits:
                refuse(f"{where}, {tensor.name}", f"dimension {size or 'letter'} is expected where {found!r} stands")
