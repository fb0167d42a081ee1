"""A plain pre-LayerNorm Vision Transformer in torch, saved under the tensor names of HF ViTForImageClassification.

The last block is evaluated for the class token alone: nothing after it reads the content tokens.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_PLAIN = {  # linear layers and norms that keep their form: ours, HF's
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "out": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VitConfig:
    """Shape of the network; the names follow HF's config.json."""

    image_size: int = 32
    patch_size: int = 4
    hidden_size: int = 128
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    intermediate_size: int = 512
    num_labels: int = 10

    @property
    def tokens(self) -> int:
        """Content tokens of one image."""
        return (self.image_size // self.patch_size) ** 2

    def as_json(self) -> dict[str, object]:
        """The fields of an HF config.json, without the labels."""
        fixed = {"model_type": "vit", "num_channels": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True}
        return {**fixed, **asdict(self)}


class Block(nn.Module):
    """One encoder block; `qkv` is fused for speed and split again when the weights are saved."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)

    def forward(self, x: Tensor, *, last: bool) -> Tensor:
        """x [B, 1+T, D] -> [B, 1+T, D], or [B, 1, D] for the last block."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, 1+T, D/H]
        if last:
            query, x = query[:, :, :1], x[:, :1]
        mixed = attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of [B, H, Tq, d] over [B, H, T, d]."""
    if query.is_cuda:
        return functional.scaled_dot_product_attention(query, key, value)
    # Spelled out, it trains several times as fast on a CPU as the fused kernel: short sequences, bf16, backward pass.
    # Without autocast's detour through f32: 8 bits of mantissa are enough for shares in a gradient.
    with torch.autocast("cpu", enabled=False):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return scores.softmax(-1) @ value


class Vit(nn.Module):
    """Normalised pictures f32 [B, 3, H, W] -> logits [B, C]."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.patch = nn.Linear(3 * config.patch_size**2, width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.zeros(1, 1 + config.tokens, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, config.num_labels)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.trunc_normal_(self.patch.weight, std=self.patch.in_features**-0.5)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.with_tokens(images, ())[0]

    @property
    def layers(self) -> list[Block]:
        """The blocks, typed."""
        return cast("list[Block]", list(self.blocks))

    def embed(self, images: Tensor) -> Tensor:
        """Normalised pictures -> class and content tokens [B, 1+T, D]."""
        size = self.config.patch_size
        batch, channels, height, width = images.shape
        grid = images.view(batch, channels, height // size, size, width // size, size)
        rows = grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)
        return torch.cat([self.cls.expand(batch, -1, -1), self.patch(rows)], dim=1) + self.pos

    def with_tokens(self, images: Tensor, after: Collection[int]) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the content tokens [B, T, D] that leave the blocks `after` (the last block has none)."""
        x, kept = self.embed(images), []
        for number, block in enumerate(self.blocks):
            x = block(x, last=number + 1 == len(self.blocks))
            if number in after:
                kept.append(x[:, 1:])
        return self.head(self.norm(x[:, 0])), kept


def hf_tensors(state: dict[str, Tensor], config: VitConfig) -> dict[str, Tensor]:
    """The network's state_dict under HF names; the patch projection becomes a convolution kernel [D, 3, p, p]."""
    size, width = config.patch_size, config.hidden_size
    kernel = state["patch.weight"].view(width, size, size, 3).permute(0, 3, 1, 2)
    named = {
        "vit.embeddings.cls_token": state["cls"],
        "vit.embeddings.position_embeddings": state["pos"],
        "vit.embeddings.patch_embeddings.projection.weight": kernel,
        "vit.embeddings.patch_embeddings.projection.bias": state["patch.bias"],
        "vit.layernorm.weight": state["norm.weight"],
        "vit.layernorm.bias": state["norm.bias"],
        "classifier.weight": state["head.weight"],
        "classifier.bias": state["head.bias"],
    }
    for number in range(config.num_hidden_layers):
        ours, theirs = f"blocks.{number}", f"vit.encoder.layer.{number}"
        for kind in ("weight", "bias"):
            for index, part in enumerate(("query", "key", "value")):
                piece = state[f"{ours}.qkv.{kind}"][index * width : (index + 1) * width]
                named[f"{theirs}.attention.attention.{part}.{kind}"] = piece
            for source, target in _PLAIN.items():
                named[f"{theirs}.{target}.{kind}"] = state[f"{ours}.{source}.{kind}"]
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in named.items()}


def from_hf(tensors: Mapping[str, Tensor], config: VitConfig) -> dict[str, Tensor]:
    """The inverse of `hf_tensors`; raises KeyError for a missing tensor."""
    kernel = tensors["vit.embeddings.patch_embeddings.projection.weight"]
    state = {
        "patch.weight": kernel.permute(0, 2, 3, 1).reshape(config.hidden_size, -1),
        "patch.bias": tensors["vit.embeddings.patch_embeddings.projection.bias"],
        "cls": tensors["vit.embeddings.cls_token"],
        "pos": tensors["vit.embeddings.position_embeddings"],
    }
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = tensors[f"vit.layernorm.{kind}"]
        state[f"head.{kind}"] = tensors[f"classifier.{kind}"]
        for number in range(config.num_hidden_layers):
            ours, theirs = f"blocks.{number}", f"vit.encoder.layer.{number}"
            parts = [tensors[f"{theirs}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{ours}.qkv.{kind}"] = torch.cat(parts)
            for own, other in _PLAIN.items():
                state[f"{ours}.{own}.{kind}"] = tensors[f"{theirs}.{other}.{kind}"]
    return state
