"""Frozen records to JSON values and back, checked field by field against their annotations.

A record's JSON key is its field's name, less a trailing underscore (`self_` is written `self`). Unknown keys are
ignored in what a daemon reports (a newer one may say more) and refused in what a client asks (`strict`). Handles
texts, numbers, booleans, None, unions with None, tuples, mappings of texts, and records inside records.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from peer.errors import BadFrame

R = TypeVar("R")

_MOST = (1 << 63) - 1


def to_json(record: object) -> Any:  # Any: a JSON value, handed to json.dumps
    """The JSON value of a record, or of a tuple or mapping of records."""
    if is_dataclass(record) and not isinstance(record, type):
        return {_key(f.name): to_json(getattr(record, f.name)) for f in fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, (tuple, list)):
        return [to_json(item) for item in record]
    return record


def from_json(kind: type[R], value: object, *, strict: bool = False, where: str = "message") -> R:
    """Build a `kind` from a parsed JSON object; BadFrame names the first field that is missing, unknown or wrong."""
    if not isinstance(value, Mapping):
        raise BadFrame(f"{where} is not an object")
    # A class is hashable, whatever its instances are; mypy looks at the instances.
    hints = _hints(kind)  # type: ignore[arg-type]
    unknown = set(value) - {_key(name) for name in hints}
    if strict and unknown:
        raise BadFrame(f"{where} has an unknown field {sorted(map(str, unknown))[0][:80]!r}")
    arguments: dict[str, object] = {}
    for name, (annotation, required) in hints.items():
        key = _key(name)
        if key in value:
            arguments[name] = _read(annotation, value[key], strict=strict, where=f"{where}.{key}")
        elif required:
            raise BadFrame(f"{where} lacks the field {key!r}")
    return kind(**arguments)


def _key(name: str) -> str:
    return name.removesuffix("_")


@cache
def _hints(kind: type[Any]) -> dict[str, tuple[Any, bool]]:  # Any: annotations have no common type
    annotations = get_type_hints(kind)
    return {f.name: (annotations[f.name], f.default is MISSING and f.default_factory is MISSING) for f in fields(kind)}


def _read(annotation: Any, value: object, *, strict: bool, where: str) -> object:  # Any: as in _hints
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _read(inner, value, strict=strict, where=where)
    if origin is tuple:
        return _read_tuple(arguments, value, strict=strict, where=where)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise BadFrame(f"{where} is not an object")
        return {str(k): _read(arguments[1], v, strict=strict, where=f"{where}.{k}") for k, v in value.items()}
    if is_dataclass(annotation) and isinstance(annotation, type):
        return from_json(annotation, value, strict=strict, where=where)
    return _read_scalar(annotation, value, where=where)


def _read_tuple(arguments: tuple[Any, ...], value: object, *, strict: bool, where: str) -> tuple[object, ...]:
    if not isinstance(value, (list, tuple)):
        raise BadFrame(f"{where} is not a list")
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise BadFrame(f"{where} does not have {len(kinds)} items")
    return tuple(
        _read(kind, item, strict=strict, where=f"{where}[{n}]")
        for n, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _read_scalar(annotation: Any, value: object, *, where: str) -> object:  # Any: as in _hints
    if annotation is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise BadFrame(f"{where} is not a finite number")
        return number
    # bool is a subclass of int in Python; in JSON they are different things.
    if isinstance(value, annotation) and isinstance(value, bool) == (annotation is bool):
        if annotation is int and not -_MOST <= value <= _MOST:  # Python's have no end; whoever computes with them does
            raise BadFrame(f"{where} is not a number of 64 bits")
        return value
    raise BadFrame(f"{where} is not of type {annotation.__name__}")
