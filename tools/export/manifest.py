"""manifest.json of a model folder: format 1. Its bytes are the model's identity, so the writer is deterministic."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.export.codec_entry import CodecEntry
from tools.export.graph import Graph, Port
from tools.export.weights import VitShape

FORMAT = 1
UNLISTED = ("manifest.json", "MODEL_CARD.md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the weights come from."""

    weights: str  # "trained", "random" or "imported"
    command: str
    source: str
    tools: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRule:
    """How a picture becomes patch rows; mean and std are part of the embed graph already and told for information."""

    resize: int  # shorter side, then a centred crop
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"


def write_manifest(
    folder: Path,
    *,
    name: str,
    labels: Sequence[str],
    shape: VitShape,
    image: ImageRule,
    provenance: Provenance,
    stages: Sequence[Graph],
    codecs: Sequence[CodecEntry],
    default_codec: str,
) -> None:
    """Describe and fingerprint what lies in `folder`; every file but manifest and card is listed."""
    if default_codec not in {codec.name for codec in codecs}:
        raise ValueError(f"default codec {default_codec} is not among the model's codecs")
    document = {
        "format": FORMAT,
        "name": name,
        "task": "image-classification",
        "labels": list(labels),
        "provenance": {
            "weights": provenance.weights,
            "command": provenance.command,
            "source": provenance.source,
            "tools": provenance.tools,
        },
        "image": {
            "height": shape.image,
            "width": shape.image,
            "resize": image.resize,
            "interpolation": image.interpolation,
            "mean": list(image.mean),
            "std": list(image.std),
        },
        "geometry": {
            "tokens": shape.tokens,
            "patch": shape.patch,
            "row_bytes": shape.row_bytes,
            "width": shape.width,
            "heads": shape.heads,
            "blocks": shape.blocks,
        },
        "stages": [_stage(graph) for graph in stages],
        "codecs": [codec.as_json() for codec in codecs],
        "default_codec": default_codec,
        "files": {path.name: fingerprint(path) for path in sorted(folder.iterdir()) if path.name not in UNLISTED},
    }
    store(folder, document)


def set_default_codec(folder: Path, name: str) -> None:
    """Make another of the model's codecs its default; this gives the model a new identity. Raises ValueError."""
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if name not in {codec["name"] for codec in document["codecs"]}:
        raise ValueError(f"{folder.name} has no codec {name}")
    document["default_codec"] = name
    store(folder, document)


def set_points_lost(folder: Path, lost: Mapping[str, Mapping[int, float]]) -> None:
    """Say what codecs cost in accuracy, by name and number of boards, and of no others.

    This gives the model a new identity.
    """
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for codec in document["codecs"]:
        error = codec.pop("error")
        codec.pop("points_lost", None)
        if codec["name"] in lost:
            codec["points_lost"] = [[boards, points] for boards, points in sorted(lost[codec["name"]].items())]
        codec["error"] = error
    store(folder, document)


def store(folder: Path, document: dict[str, Any]) -> None:  # Any: the values of a JSON document
    """Write the document in the one form this project uses."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def fingerprint(path: Path) -> dict[str, str | int]:
    """SHA-256 and size of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def _stage(graph: Graph) -> dict[str, Any]:  # Any: the values of a JSON document
    return {
        "name": graph.name,
        "file": graph.file,
        "inputs": [_port(port) for port in graph.inputs],
        "outputs": [_port(port) for port in graph.outputs],
    }


def _port(port: Port) -> dict[str, Any]:  # Any: the values of a JSON document
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}
