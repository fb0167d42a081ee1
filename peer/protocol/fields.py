"""Reading one flat msgpack array field by field: every field has a type and a range before anybody uses it.

This is the only import of msgpack. A frame is a msgpack array of at most 15 scalars and byte strings. Its first byte
tells how many; the fields behind it are unpacked one at a time with nesting forbidden, so that a frame full of nested
arrays (a "bomb") is refused at its first inner element instead of being built.
"""

import math

import msgpack

from peer.errors import BadFrame, FrameTooLarge

MAX_HEADER_BYTES = 64 * 1024  # first frame: scalars, and codes small enough to travel inside it
MAX_TEXT_BYTES = 512
_FIXARRAY = 0x90
MAX_FIELDS = 15

Field = int | float | str | bytes | bool


def pack(fields: list[Field]) -> bytes:
    """Flat list of at most 15 fields -> one frame."""
    return bytes(msgpack.packb(fields, use_bin_type=True))


def unpack(frame: bytes) -> list[object]:
    """One frame -> its fields, not yet typed. Raises BadFrame, FrameTooLarge."""
    if len(frame) > MAX_HEADER_BYTES:
        raise FrameTooLarge(f"a header of {len(frame)} bytes is over the limit of {MAX_HEADER_BYTES}")
    if not frame or frame[0] & 0xF0 != _FIXARRAY:
        raise BadFrame("a frame does not start with a short msgpack array")
    reader = msgpack.Unpacker(
        raw=False,
        strict_map_key=True,
        max_buffer_size=MAX_HEADER_BYTES,
        max_str_len=MAX_TEXT_BYTES,
        max_bin_len=MAX_HEADER_BYTES,
        max_array_len=0,
        max_map_len=0,
        max_ext_len=0,
    )
    try:
        reader.feed(memoryview(frame)[1:])
        fields = [reader.unpack() for _ in range(frame[0] & 0x0F)]
        trailing = reader.tell() != len(frame) - 1
    except Exception as problem:  # noqa: BLE001 - the one boundary where foreign bytes meet a parser
        raise BadFrame(f"a frame is not valid msgpack ({type(problem).__name__})") from None
    if trailing:
        raise BadFrame("a frame has bytes behind its last field")
    return fields


def body_of(value: object, frame: bytes | None) -> bytes:
    """A message's body: the field itself, or the second frame when the field announces its length."""
    if type(value) is bytes:
        if frame is not None:
            raise BadFrame("a message carries its body twice")
        return value
    if type(value) is not int or frame is None or value != len(frame):
        raise BadFrame("the second frame is missing or not as long as announced")
    return frame


class Fields:
    """A cursor over unpacked fields; every read names what it expects and raises BadFrame otherwise."""

    __slots__ = ("_at", "_values")

    def __init__(self, values: list[object]) -> None:
        self._values = values
        self._at = 0

    def _next(self) -> object:
        if self._at >= len(self._values):
            raise BadFrame("a message has too few fields")
        value = self._values[self._at]
        self._at += 1
        return value

    def integer(self, name: str, *, low: int, high: int) -> int:
        value = self._next()
        if type(value) is not int or not low <= value <= high:
            raise BadFrame(f"field {name} is not an integer between {low} and {high}")
        return value

    def number(self, name: str, *, low: float, high: float) -> float:
        value = self._next()
        if type(value) is not float or not math.isfinite(value) or not low <= value <= high:
            raise BadFrame(f"field {name} is not a number between {low} and {high}")
        return value

    def flag(self, name: str) -> bool:
        value = self._next()
        if type(value) is not bool:
            raise BadFrame(f"field {name} is not a boolean")
        return value

    def text(self, name: str, *, limit: int) -> str:
        value = self._next()
        if type(value) is not str or len(value) > limit or not value.isprintable():
            raise BadFrame(f"field {name} is not a printable text of at most {limit} characters")
        return value

    def blob(self, name: str, *, low: int = 0, high: int = MAX_HEADER_BYTES) -> bytes:
        value = self._next()
        if type(value) is not bytes or not low <= len(value) <= high:
            raise BadFrame(f"field {name} is not a byte string of {low} to {high} bytes")
        return value

    def body(self, frame: bytes | None) -> bytes:
        """Either the bytes themselves, or the announced length of the second frame."""
        return body_of(self._next(), frame)

    def end(self) -> None:
        if self._at != len(self._values):
            raise BadFrame("a message has too many fields")
