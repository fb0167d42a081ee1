"""Weights of a plain pre-LayerNorm ViT: reads HF names (ViTForImageClassification), lays them out for the graphs.

All matrices are stored as [in, out] so that a graph multiplies rows from the right without a transposition.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


class Storage(StrEnum):
    """How the blocks' matrices are stored and multiplied."""

    F32 = "f32"
    INT8 = "int8"  # integers of 7 bits per output, times activations of 8 bits per token


class Activation(StrEnum):
    """The MLP's non-linearity; the values are names that config.json uses."""

    GELU = "gelu"  # exact, by the error function
    GELU_TANH = "gelu_new"
    QUICK_GELU = "quick_gelu"  # x * sigmoid(1.702 x)
    RELU = "relu"


@dataclass(frozen=True, slots=True, kw_only=True)
class VitShape:
    """Sizes of the network."""

    image: int  # pixels, square
    patch: int  # pixels, square
    width: int
    heads: int
    blocks: int
    mlp: int
    classes: int
    eps: float = 1e-6
    activation: Activation = Activation.GELU

    @property
    def tokens(self) -> int:
        """Content tokens of one image."""
        return (self.image // self.patch) ** 2

    @property
    def row_bytes(self) -> int:
        """Bytes of one patch: (row, column, channel)."""
        return self.patch * self.patch * 3

    def config(self) -> dict[str, Any]:  # Any: the values of a JSON document
        """The HF config.json this shape stands for."""
        return {
            "model_type": "vit",
            "image_size": self.image,
            "patch_size": self.patch,
            "num_channels": 3,
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.blocks,
            "intermediate_size": self.mlp,
            "id2label": {str(number): f"LABEL_{number}" for number in range(self.classes)},
            "layer_norm_eps": self.eps,
            "hidden_act": self.activation.value,
            "qkv_bias": True,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """y = x @ weight + bias; also the gain and offset of a LayerNorm."""

    weight: F32
    bias: F32


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWeights:
    """One encoder block."""

    norm1: Affine  # [D], [D]
    query: Affine  # [D, D], [D], scaled by 1/sqrt(head width): scores need no further scaling
    kv: Affine  # [D, 2D], [2D]: keys, then values
    out: Affine  # [D, D], [D]
    norm2: Affine
    up: Affine  # [D, M], [M]
    down: Affine  # [M, D], [D]


@dataclass(frozen=True, slots=True, kw_only=True)
class VitWeights:
    """The whole network, ready to be written into graphs."""

    shape: VitShape
    patch: Affine  # [row_bytes, D], [D]; takes raw bytes 0..255: 1/255, mean and std are folded in
    cls: F32  # [1, 1, D], position of the class token added
    pos: F32  # [T, D], content tokens
    blocks: tuple[BlockWeights, ...]
    norm: Affine
    head: Affine  # [D, C], [C]
    storage: Storage = Storage.F32  # of the blocks; patches and head stay f32


def arrange(
    tensors: Mapping[str, F32],
    shape: VitShape,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    storage: Storage = Storage.F32,
) -> VitWeights:
    """HF-named tensors -> the layout of the graphs; `mean` and `std` (0..1, RGB) go into the patch projection."""
    embeddings = "vit.embeddings"
    kernel = tensors[f"{embeddings}.patch_embeddings.projection.weight"]  # [D, 3, p, p]
    projection = kernel.transpose(2, 3, 1, 0).reshape(shape.row_bytes, shape.width).astype(np.float64)
    offset = np.tile(np.asarray(mean), shape.patch**2)
    scale = np.tile(np.asarray(std), shape.patch**2)
    bias = tensors[f"{embeddings}.patch_embeddings.projection.bias"] - (offset / scale) @ projection
    position = tensors[f"{embeddings}.position_embeddings"]  # [1, 1+T, D]
    if position.shape[1] != 1 + shape.tokens:
        raise ValueError(f"{position.shape[1]} position embeddings, expected {1 + shape.tokens}")
    return VitWeights(
        shape=shape,
        patch=Affine(weight=_f32(projection / (255 * scale)[:, None]), bias=_f32(bias)),
        cls=_f32(tensors[f"{embeddings}.cls_token"] + position[:, :1]),
        pos=_f32(position[0, 1:]),
        blocks=tuple(_block(tensors, shape, number) for number in range(shape.blocks)),
        norm=_norm(tensors, "vit.layernorm"),
        head=_linear(tensors, "classifier"),
        storage=storage,
    )


def _block(tensors: Mapping[str, F32], shape: VitShape, number: int) -> BlockWeights:
    layer = f"vit.encoder.layer.{number}"
    query, key, value = (_linear(tensors, f"{layer}.attention.attention.{part}") for part in ("query", "key", "value"))
    scale = (shape.width // shape.heads) ** -0.5
    return BlockWeights(
        norm1=_norm(tensors, f"{layer}.layernorm_before"),
        query=Affine(weight=_f32(query.weight * scale), bias=_f32(query.bias * scale)),
        kv=Affine(
            weight=np.concatenate([key.weight, value.weight], axis=1),
            bias=np.concatenate([key.bias, value.bias]),
        ),
        out=_linear(tensors, f"{layer}.attention.output.dense"),
        norm2=_norm(tensors, f"{layer}.layernorm_after"),
        up=_linear(tensors, f"{layer}.intermediate.dense"),
        down=_linear(tensors, f"{layer}.output.dense"),
    )


def _linear(tensors: Mapping[str, F32], name: str) -> Affine:
    return Affine(weight=_f32(tensors[f"{name}.weight"].T), bias=_f32(tensors[f"{name}.bias"]))


def _norm(tensors: Mapping[str, F32], name: str) -> Affine:
    return Affine(weight=_f32(tensors[f"{name}.weight"]), bias=_f32(tensors[f"{name}.bias"]))


def _f32(array: npt.NDArray[Any]) -> F32:  # Any: whatever float type the arithmetic left
    return np.ascontiguousarray(array, dtype=np.float32)
