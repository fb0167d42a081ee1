"""The trained network out of a model folder, as the Hugging Face folder that it was exported from: to train it further.

    python -m tools.export.restore models_onnx/vit-cifar10 --out runs/vit-cifar10

Leaves config.json and model.safetensors, which `tools.train --start`, `tools.finetune --model` and `tools.import_vit`
take, and card.md, what the folder's model card tells of the training so far, for the next card. The weights are those
of the folder to within rounding, as the export folds the scaling of pixels and queries into its matrices. A folder with
int8 weights holds no others, and is refused.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from runtime.integrity import open_model
from runtime.plan import ImageSpec, ModelPlan
from tools.export.failure import BadInput, NoSuchModel, run
from tools.export.safetensors_file import write_safetensors
from tools.export.staging import staged
from tools.export.training_text import history
from tools.export.weights import F32, Activation, VitShape

_LAYERS = {  # of a block: names in the graphs -> names of Hugging Face
    "norm1": "layernorm_before",
    "out": "attention.output.dense",
    "norm2": "layernorm_after",
    "up": "intermediate.dense",
    "down": "output.dense",
}


def restore(folder: Path) -> tuple[dict[str, F32], VitShape, ModelPlan]:
    """HF-named tensors and sizes of the network in a model folder. Raises NoSuchModel, BadInput."""
    plan = open_model(folder)
    graph = onnx.load(folder / "whole.onnx")
    found = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    if "0.kv.weight" not in found:
        raise NoSuchModel(f"{plan.name} holds int8 weights only", "take the folder with f32 weights")
    try:
        shape = _shape(plan, graph, found)
        return dict(_tensors(found, shape, plan.image)), shape, plan
    except (KeyError, ValueError) as problem:
        raise BadInput(f"{plan.name} lacks a tensor, or has one of another shape ({problem})", "export again") from None


def _shape(plan: ModelPlan, graph: ModelProto, found: Mapping[str, np.ndarray]) -> VitShape:
    kinds = {node.op_type: node for node in graph.graph.node}
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in kinds["LayerNormalization"].attribute}
    activation = Activation.QUICK_GELU if "Sigmoid" in kinds else Activation.RELU
    if "Gelu" in kinds:
        approximate = onnx.helper.get_attribute_value(kinds["Gelu"].attribute[0])
        activation = Activation.GELU_TANH if approximate == b"tanh" else Activation.GELU
    return VitShape(
        image=plan.image.height,
        patch=plan.geometry.patch,
        width=plan.geometry.width,
        heads=plan.geometry.heads,
        blocks=plan.geometry.blocks,
        mlp=found["0.up.weight"].shape[1],
        classes=len(plan.labels),
        eps=float(np.float32(attributes["epsilon"]).astype(str)),
        activation=activation,
    )


def _tensors(found: Mapping[str, np.ndarray], shape: VitShape, image: ImageSpec) -> Iterator[tuple[str, F32]]:
    """The inverse of `tools.export.weights.arrange`."""
    mean, std = (np.tile(np.asarray(each), shape.patch**2) for each in (image.mean, image.std))
    projection = found["patch.weight"].astype(np.float64) * (255 * std)[:, None]
    kernel = projection.reshape(shape.patch, shape.patch, 3, shape.width).transpose(3, 2, 0, 1)
    patches = "vit.embeddings.patch_embeddings.projection"
    yield f"{patches}.weight", _f32(kernel)
    yield f"{patches}.bias", _f32(found["patch.bias"] + (mean / std) @ projection)
    # Class token and its position came as their sum.
    yield "vit.embeddings.cls_token", _f32(found["cls"])
    position = np.concatenate([np.zeros((1, shape.width)), found["pos"]])
    yield "vit.embeddings.position_embeddings", _f32(position[None])
    for number in range(shape.blocks):
        layer = f"vit.encoder.layer.{number}"
        scale = (shape.width // shape.heads) ** 0.5
        for part in ("weight", "bias"):
            attention = f"{layer}.attention.attention"
            query, kv = found[f"{number}.query.{part}"], found[f"{number}.kv.{part}"]
            yield f"{attention}.query.{part}", _f32(query.T.astype(np.float64) * scale)
            for name, half in zip(("key", "value"), np.split(kv, 2, axis=-1), strict=True):
                yield f"{attention}.{name}.{part}", _f32(half.T)
            for own, theirs in _LAYERS.items():
                yield f"{layer}.{theirs}.{part}", _f32(found[f"{number}.{own}.{part}"].T)
    for part in ("weight", "bias"):
        yield f"vit.layernorm.{part}", _f32(found[f"norm.{part}"])
        yield f"classifier.{part}", _f32(found[f"head.{part}"].T)


def _f32(array: np.ndarray) -> F32:
    return np.ascontiguousarray(array, dtype=np.float32)


def _run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replace", action="store_true", help="write over a folder that is there")
    options = parser.parse_args()
    tensors, shape, plan = restore(options.folder)
    labels = {str(number): label for number, label in enumerate(plan.labels)}
    config = {
        **shape.config(),
        "id2label": labels,
        "label2id": {label: int(number) for number, label in labels.items()},
        "image_mean": list(plan.image.mean),
        "image_std": list(plan.image.std),
    }
    with staged(options.out, replace=options.replace) as fresh:
        (fresh / "config.json").write_text(json.dumps(config, indent=1))
        write_safetensors(fresh / "model.safetensors", tensors)
        card = options.folder / "MODEL_CARD.md"
        if card.is_file() and (told := history(card.read_text(encoding="utf-8"))):
            (fresh / "card.md").write_text(told, encoding="utf-8")
    print(f"{options.out}: {plan.name}, {sum(each.size for each in tensors.values()) / 1e6:.1f} million weights")


if __name__ == "__main__":
    sys.exit(run(_run))
