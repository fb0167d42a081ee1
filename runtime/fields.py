"""Reads values out of hostile JSON: exact types, bounded sizes, and errors that name the place."""

import json
import math
import re
from enum import Enum
from typing import NoReturn, TypeVar, cast

from runtime.errors import PlanError, one_line

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # of models, codecs, stages and files: no separator, no leading dot
E = TypeVar("E", bound=Enum)


def refuse(where: str, problem: str) -> NoReturn:
    """Raise the PlanError of a manifest that breaks format 1 at `where`."""
    raise PlanError(f"manifest.json, {where}: {problem}", "export the model again with this version's tools")


def load_json(data: bytes) -> object:
    """Strict JSON: UTF-8, no duplicate keys, no NaN or Infinity, bounded nesting. Raises PlanError."""
    try:
        return cast("object", json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant))
    except (ValueError, RecursionError) as exc:
        refuse("syntax", one_line(exc, 120))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return table


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


class Table:
    """A JSON object whose keys are exactly `keys`; `where` is its place in the manifest, for errors."""

    def __init__(self, value: object, where: str, keys: frozenset[str]) -> None:
        if type(value) is not dict:
            refuse(where, "an object is expected")
        unknown, missing = sorted(value.keys() - keys), sorted(keys - value.keys())
        if unknown:
            refuse(where, f"unknown key {one_line(unknown[0], 40)!r}")
        if missing:
            refuse(where, f"key {missing[0]!r} is missing")
        self.where = where
        self._value: dict[str, object] = value

    def raw(self, key: str) -> object:
        """The unchecked value, for a nested reader."""
        return self._value[key]

    def at(self, key: str) -> str:
        """The place of `key`, for errors."""
        return f"{self.where}.{key}"

    def text(self, key: str, limit: int = 1024) -> str:
        """Printable text (one line) of at most `limit` characters."""
        return text(self._value[key], self.at(key), limit)

    def name(self, key: str) -> str:
        """A name made of a-z 0-9 . _ - that starts with a letter or digit, at most 64 characters."""
        return name(self._value[key], self.at(key))

    def integer(self, key: str, low: int, high: int) -> int:
        """A whole number within [low, high]."""
        return integer(self._value[key], self.at(key), low, high)

    def flag(self, key: str) -> bool:
        """true or false."""
        found = self._value[key]
        if type(found) is not bool:
            refuse(self.at(key), "true or false is expected")
        return found

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number within [low, high]."""
        return number(self._value[key], self.at(key), low, high)

    def choice(self, key: str, options: type[E]) -> E:
        """The member of `options` whose value stands here."""
        found = self._value[key]
        for option in options:
            if option.value == found and type(found) is str:
                return option
        refuse(self.at(key), f"one of {', '.join(str(o.value) for o in options)} is expected")

    def items(self, key: str, low: int, high: int) -> list[tuple[str, object]]:
        """The entries of a list of low..high entries, each with its place."""
        where = self.at(key)
        return [(f"{where}[{i}]", item) for i, item in enumerate(sequence(self._value[key], where, low, high))]


def sequence(value: object, where: str, low: int, high: int) -> list[object]:
    """A list of low..high entries."""
    if type(value) is not list or not low <= len(value) <= high:
        refuse(where, f"a list of {low} to {high} entries is expected")
    return value


def text(value: object, where: str, limit: int = 1024) -> str:
    """Printable text (one line) of at most `limit` characters."""
    if type(value) is not str or len(value) > limit or not value.isprintable():
        refuse(where, f"one line of text of at most {limit} characters is expected")
    return value


def name(value: object, where: str) -> str:
    """A name made of a-z 0-9 . _ - that starts with a letter or digit, at most 64 characters."""
    if type(value) is not str or NAME.fullmatch(value) is None:
        refuse(where, "a name of a-z 0-9 . _ - (at most 64 characters, no leading dot) is expected")
    return value


def integer(value: object, where: str, low: int, high: int) -> int:
    """A whole number within [low, high]; true and 1.0 are no whole numbers."""
    if type(value) is not int or not low <= value <= high:
        refuse(where, f"a whole number from {low} to {high} is expected")
    return value


def number(value: object, where: str, low: float, high: float) -> float:
    """A finite number within [low, high]."""
    if type(value) not in (int, float):
        refuse(where, "a number is expected")
    found = cast("int | float", value)
    if not low <= found <= high or not math.isfinite(found):
        refuse(where, f"a number from {low:g} to {high:g} is expected")
    return float(found)
