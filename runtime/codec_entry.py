"""One codec entry of a manifest -> CodecSpec. Which keys an entry has depends on its kind; few are optional."""

from runtime.fields import Table, integer, name, number, refuse, sequence
from runtime.plan import CodecKind, CodecSpec, ErrorBound, Geometry, Source, Yields

_BASE = frozenset({"name", "kind", "source", "yields", "width", "error"})
_KEYS = {
    CodecKind.F32: _BASE,
    CodecKind.F16: _BASE,
    CodecKind.INT8: _BASE | {"group"},
    CodecKind.INT4: _BASE | {"group"},
    CodecKind.CODEBOOK: _BASE | {"groups", "codes", "encode", "decode"},
    CodecKind.TRANSFORM: _BASE | {"bits", "encode", "decode"},
}
_ALWAYS_OPTIONAL = ("points_lost",)
_OPTIONAL = {
    CodecKind.CODEBOOK: ("state", "start", "absent"),
    CodecKind.TRANSFORM: ("attend", "state", "start", "absent"),
}
_GRAPHS = (CodecKind.CODEBOOK, CodecKind.TRANSFORM)


def parse_codec(value: object, where: str, geometry: Geometry) -> CodecSpec:
    """Check one entry of "codecs" against the model's geometry. Raises PlanError."""
    kind = Table(_only(value, where, "kind"), where, frozenset({"kind"})).choice("kind", CodecKind)
    optional = {key for key in (*_ALWAYS_OPTIONAL, *_OPTIONAL.get(kind, ())) if type(value) is dict and key in value}
    attends, remembers = "attend" in optional, "state" in optional
    table = Table(value, where, _KEYS[kind] | optional)
    source, yields = table.choice("source", Source), table.choice("yields", Yields)
    _check_path(kind, source, yields, where)
    width = table.integer("width", 1, 2 * geometry.width)
    if width != geometry.width * (2 if source is Source.KV else 1):
        refuse(table.at("width"), f"{width} is not the width of the source {source.value!r}")
    if attends and yields is not Yields.KV:
        refuse(table.at("attend"), "only codes of keys and values can be attended to")
    if remembers and yields is not Yields.KV:
        refuse(table.at("state"), "only codes that are decoded to keys and values can pass on a state")
    for key in sorted(optional & {"start", "absent"}):
        if not remembers:
            refuse(table.at(key), "only codes that pass on a state have this")
    bits = _bits(table, width, geometry.blocks, least=0 if remembers else 1) if kind is CodecKind.TRANSFORM else ()
    if bits and not bits[0]:
        refuse(table.at("bits"), "the first block cannot be silent")
    speaking = sum(1 for own in bits if own) if bits else geometry.blocks
    error = Table(table.raw("error"), table.at("error"), frozenset({"kind", "value"}))
    return CodecSpec(
        name=table.name("name"),
        kind=kind,
        source=source,
        yields=yields,
        width=width,
        group=_group(table, kind, width) if "group" in _KEYS[kind] else 0,
        groups=table.integer("groups", 1, width) if kind is CodecKind.CODEBOOK else 0,
        codes=table.integer("codes", 2, 65_536) if kind is CodecKind.CODEBOOK else 0,
        bits=bits,
        encode=_graphs(table, "encode", speaking) if kind in _GRAPHS else (),
        decode=_graphs(table, "decode", geometry.blocks) if kind in _GRAPHS else (),
        attend=_graphs(table, "attend", geometry.blocks) if attends else (),
        state=table.integer("state", 1, 2 * geometry.width) if remembers else 0,
        start=table.name("start") if "start" in optional else "",
        absent="absent" in optional and table.flag("absent"),
        points_lost=_points(table) if "points_lost" in optional else (),
        error=ErrorBound(kind=error.name("kind"), value=error.number("value", 0.0, 1e9)),
    )


def _points(table: Table) -> tuple[tuple[int, float], ...]:
    """[boards, points] for rising numbers of boards."""
    found: list[tuple[int, float]] = []
    for where, item in table.items("points_lost", 1, 64):
        boards, points = sequence(item, where, 2, 2)
        found.append((integer(boards, f"{where}[0]", 2, 4096), number(points, f"{where}[1]", -100.0, 100.0)))
        if len(found) > 1 and found[-2][0] >= found[-1][0]:
            refuse(where, "the numbers of boards must rise")
    return tuple(found)


def _only(value: object, where: str, key: str) -> object:
    """The entry cut down to `key`: the kind must be known before the set of allowed keys is."""
    if type(value) is not dict or key not in value:
        refuse(where, f"an object with the key {key!r} is expected")
    return {key: value[key]}


def _check_path(kind: CodecKind, source: Source, yields: Yields, where: str) -> None:
    if source is Source.NORMED and (kind not in _GRAPHS or yields is not Yields.KV):
        refuse(where, "the source 'normed' needs a codebook or transform that yields 'kv'")
    if source is not Source.NORMED and source.value != yields.value:
        refuse(where, f"the source {source.value!r} cannot yield {yields.value!r}")


def _group(table: Table, kind: CodecKind, width: int) -> int:
    group = table.integer("group", 1, width)
    if width % group or (kind is CodecKind.INT4 and width % 2):
        refuse(table.at("group"), f"groups of {group} do not divide the width {width}")
    return group


def _bits(table: Table, width: int, blocks: int, *, least: int) -> tuple[tuple[int, ...], ...]:
    """`least`: components of a block; only codecs with a state may be silent in some."""
    return tuple(
        tuple(integer(bits, f"{where}[{i}]", 1, 16) for i, bits in enumerate(sequence(item, where, least, width)))
        for where, item in table.items("bits", blocks, blocks)
    )


def _graphs(table: Table, key: str, blocks: int) -> tuple[str, ...]:
    return tuple(name(item, where) for where, item in table.items(key, blocks, blocks))
