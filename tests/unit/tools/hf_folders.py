"""Hugging Face folders as the library writes them, without the library."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tools.export.random_vit import TINY, random_tensors

_NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int32": "I32", "int64": "I64"}


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """uint16 stands for bf16, which numpy does not know."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    body = b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        offsets = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": _NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def write_folder(
    folder: Path, *, tensors: Mapping[str, np.ndarray] | None = None, config: Mapping[str, Any] | None = None
) -> Path:
    """A tiny ViT, with other tensors or other keys of config.json where given (None removes a key)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", random_tensors(TINY, seed=2) if tensors is None else tensors)
    document = {**TINY.config(), **(config or {})}
    kept = {key: value for key, value in document.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def write_calibration(path: Path, *, pictures: int = 40) -> Path:
    """Random pictures of the tiny ViT's size."""
    shape = (pictures, TINY.image, TINY.image, 3)
    np.save(path, np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8))
    return path
