"""External data: one file that several graphs refer to, each distinct tensor in it once, at aligned offsets.

Page-aligned offsets let onnxruntime map the file, so that stages on one board share the pages.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

ALIGNMENT_BYTES = 4096
_ZERO_FILL = b"\0" * ALIGNMENT_BYTES


class TensorFile:
    """Append-only writer of one external data file; `name` is what graphs beside it use as location."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._stream = path.open("wb")
        self._regions: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def close(self) -> None:
        """Finish the file; no tensor may be added afterwards."""
        self._stream.close()

    def tensor(self, name: str, array: npt.NDArray[Any]) -> TensorProto:  # Any: each element type ONNX knows
        """A TensorProto that points at the array's region; the bytes are written on first sight only."""
        data = np.ascontiguousarray(array)
        raw = data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes()
        key = (data.dtype.str, data.shape, hashlib.sha256(raw).digest())
        if key not in self._regions:
            position = self._stream.tell()
            self._stream.write(_ZERO_FILL[: -position % ALIGNMENT_BYTES])
            self._regions[key] = self._stream.tell()
            self._stream.write(raw)
            self._stream.flush()
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(data.dtype),
            dims=data.shape,
            data_location=TensorProto.EXTERNAL,
        )
        for field, value in (("location", self.name), ("offset", self._regions[key]), ("length", len(raw))):
            tensor.external_data.append(onnx.StringStringEntryProto(key=field, value=str(value)))
        return tensor
