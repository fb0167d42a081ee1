"""A Hugging Face folder (config.json, model.safetensors, preprocessor_config.json) -> a checked network.

Nothing downstream meets a missing or misshapen tensor: names are made uniform (`vit.`) and every shape follows from
config.json, or the folder is refused.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import one_line
from tools.export.failure import BadInput, NoSuchModel
from tools.export.hf_config import check_family, read_image_rule, read_labels, read_shape
from tools.export.manifest import ImageRule
from tools.export.safetensors_file import Tensor, read_safetensors
from tools.export.weights import F32, VitShape

_MOST_JSON_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A trained network under HF names that start with `vit.`, and what belongs to it."""

    tensors: dict[str, F32]
    shape: VitShape
    labels: tuple[str, ...]
    image: ImageRule
    trained_here: bool  # written by tools/, which leaves its metrics beside the weights


def read_folder(folder: Path) -> Checkpoint:
    """Read and check a whole folder. Raises NoSuchModel (not a ViT) or BadInput (damaged, incomplete)."""
    if not folder.is_dir():
        raise NoSuchModel(f"{folder} is no folder", "give a folder with config.json and model.safetensors")
    if not (folder / "config.json").is_file():
        raise NoSuchModel(f"{folder} holds no config.json", "give a folder saved by transformers' save_pretrained")
    config = read_json(folder / "config.json")
    check_family(config)
    shape = read_shape(config)
    processor_at = folder / "preprocessor_config.json"
    processor = read_json(processor_at) if processor_at.is_file() else {}
    tensors = _uniform(_read_weights(folder))
    _refuse_other_heads(tensors)
    return Checkpoint(
        tensors=dict(_checked(tensors, shape, biased=bool(config.get("qkv_bias", True)))),
        shape=shape,
        labels=tuple(read_labels(config)),
        image=read_image_rule(config, processor, shape.image),
        trained_here=(folder / "metrics.json").is_file(),
    )


def read_json(path: Path) -> dict[str, Any]:  # Any: the values of a JSON document
    """A JSON object; raises BadInput."""
    if path.stat().st_size > _MOST_JSON_BYTES:
        raise BadInput(f"{path.name} is too large", "copy it again")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise BadInput(f"{path.name} is no JSON ({one_line(exc, 80)})", "copy it again") from exc
    if not isinstance(found, dict):
        raise BadInput(f"{path.name} is no JSON object", "copy it again")
    return found


def _read_weights(folder: Path) -> dict[str, Tensor]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_safetensors(single).tensors
    if index.is_file():
        table = read_json(index).get("weight_map")
        names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
        if not names or any(Path(name).name != name or not (folder / name).is_file() for name in names):
            raise BadInput(f"{index.name} names files that are not in the folder", "copy the whole folder again")
        return {key: tensor for name in names for key, tensor in read_safetensors(folder / name).tensors.items()}
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise NoSuchModel(
            "the weights are a pickle, which is never opened", "save the model as safetensors (save_pretrained does)"
        )
    raise NoSuchModel(f"{folder} holds no model.safetensors", "give a folder saved by transformers' save_pretrained")


def _uniform(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`deit.x`, and `embeddings...` of a network saved without its head, become `vit.x`."""
    bare = ("embeddings.", "encoder.", "layernorm.")
    renamed = {}
    for name, tensor in tensors.items():
        new = name
        if name.startswith("deit."):
            new = "vit." + name.removeprefix("deit.")
        elif name.startswith(bare):
            new = f"vit.{name}"
        renamed[new] = tensor
    return renamed


def _refuse_other_heads(tensors: Mapping[str, Tensor]) -> None:
    if "vit.embeddings.distillation_token" in tensors:
        raise NoSuchModel(
            "this DeiT has a distillation token, and a model folder of format 1 holds one class token",
            "take the DeiT without distillation (model_type vit)",
        )
    if "blocks.0.attn.qkv.weight" in tensors:
        raise NoSuchModel("the tensors have timm's names", "convert the checkpoint to Hugging Face names first")
    if "classifier.weight" not in tensors and any(name.startswith("vit.") for name in tensors):
        raise NoSuchModel("the network has no classifier", "save a ViTForImageClassification")


def _checked(tensors: Mapping[str, Tensor], shape: VitShape, *, biased: bool) -> Iterator[tuple[str, F32]]:
    """Every tensor that the network needs, f32 and in its shape; biases that the config says are absent become 0."""
    for name, size in _expected(shape):
        own = name.endswith((".query.bias", ".key.bias", ".value.bias"))
        if name not in tensors:
            if own and not biased:
                yield name, np.zeros(size, dtype=np.float32)
                continue
            raise BadInput(f"the checkpoint lacks the tensor {name}", "copy the checkpoint again")
        found = tensors[name]
        if found.shape != size:
            have, want = ("x".join(map(str, dims)) for dims in (found.shape, size))
            raise BadInput(f"tensor {name} is {have}, config.json asks for {want}", "copy both files again")
        yield name, found.astype(np.float32, copy=False)


def _expected(shape: VitShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = shape.width
    yield "vit.embeddings.cls_token", (1, 1, width)
    yield "vit.embeddings.position_embeddings", (1, 1 + shape.tokens, width)
    yield "vit.embeddings.patch_embeddings.projection.weight", (width, 3, shape.patch, shape.patch)
    yield "vit.embeddings.patch_embeddings.projection.bias", (width,)
    parts = [(f"attention.attention.{part}", width, width) for part in ("query", "key", "value")]
    parts += [("attention.output.dense", width, width), ("intermediate.dense", shape.mlp, width)]
    parts += [("output.dense", width, shape.mlp)]
    for number in range(shape.blocks):
        layer = f"vit.encoder.layer.{number}"
        for norm in ("layernorm_before", "layernorm_after"):
            yield from ((f"{layer}.{norm}.{part}", (width,)) for part in ("weight", "bias"))
        for part, rows, columns in parts:
            yield f"{layer}.{part}.weight", (rows, columns)
            yield f"{layer}.{part}.bias", (rows,)
    yield from ((f"vit.layernorm.{part}", (width,)) for part in ("weight", "bias"))
    yield "classifier.weight", (shape.classes, width)
    yield "classifier.bias", (shape.classes,)
