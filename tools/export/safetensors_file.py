"""safetensors files without the library: a length, a JSON header, raw tensors. The bytes are not trusted.

Floating types become f32, integers stay as they are. Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import one_line
from tools.export.failure import BadInput

MAX_HEADER_BYTES = 100 << 20  # the library's own limit
_COPY = "copy the file again"
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_STORED = {**_FLOATS, "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}

Tensor = npt.NDArray[Any]  # Any: f32, or the integer type that the file has


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFileContent:
    """Everything in one file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_safetensors(path: Path) -> TensorFileContent:
    """Read a whole file. Raises BadInput for anything that is not a sound one, and for NaN and infinity."""
    raw = memoryview(path.read_bytes())
    if len(raw) < 8:
        raise BadInput(f"{path.name} is no safetensors file ({len(raw)} bytes)", _COPY)
    (length,) = struct.unpack_from("<Q", raw)
    if length > min(len(raw) - 8, MAX_HEADER_BYTES):
        raise BadInput(f"{path.name} is cut off or no safetensors file", _COPY)
    try:
        header = json.loads(bytes(raw[8 : 8 + length]))
    except (ValueError, RecursionError) as exc:
        raise BadInput(f"{path.name} has a header that is no JSON", _COPY) from exc
    if not isinstance(header, dict):
        raise BadInput(f"{path.name} has a header that is no JSON object", _COPY)
    metadata = header.pop("__metadata__", {})
    body = raw[8 + length :]
    tensors = {name: _tensor(path.name, name, entry, body) for name, entry in header.items()}
    texts = metadata.items() if isinstance(metadata, dict) else ()
    return TensorFileContent(tensors=tensors, metadata={str(key): str(value) for key, value in texts})


def _tensor(file: str, name: str, entry: object, body: memoryview) -> Tensor:
    where = f"{file}: tensor {one_line(name, 80)}"
    try:
        kind, shape, (begin, end) = _entry(entry)
    except (KeyError, TypeError, ValueError) as exc:
        raise BadInput(f"{where} is described wrongly", _COPY) from exc
    if kind not in _STORED:
        raise BadInput(f"{where} has the type {one_line(kind, 20)}", "save it as F32, F16 or BF16")
    stored = np.dtype(_STORED[kind])
    if not 0 <= begin <= end <= len(body) or end - begin != math.prod(shape) * stored.itemsize:
        raise BadInput(f"{where} does not fit into the file", _COPY)
    array = np.frombuffer(body[begin:end], dtype=stored).reshape(shape)
    if kind == "BF16":  # the upper half of an f32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if array.dtype.kind != "f":
        return array
    narrowed = array.astype(np.float32)
    if not np.isfinite(narrowed).all():
        raise BadInput(f"{where} holds NaN or infinity", "use another checkpoint")
    return narrowed


def _entry(entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    if not isinstance(entry, Mapping):
        raise TypeError
    shape = tuple(int(size) for size in entry["shape"])
    if any(size < 0 for size in shape):
        raise ValueError
    begin, end = (int(offset) for offset in entry["data_offsets"])
    return str(entry["dtype"]), shape, (begin, end)


def write_safetensors(path: Path, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write f32 tensors, in the order given."""
    header: dict[str, object] = {}
    end = 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight, as the library writes them
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array, dtype="<f4").tobytes())
