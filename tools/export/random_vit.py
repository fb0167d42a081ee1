"""Random weights of any size under HF names: tiny networks for tests, ViT-Base/16 for benchmarks.

Nothing made here is trained; the manifest of such a model says so.
"""

import numpy as np

from tools.export.weights import F32, VitShape

TINY = VitShape(image=16, patch=4, width=32, heads=2, blocks=3, mlp=64, classes=5)
# 196 content tokens + CLS = 197 tokens.
VIT_BASE_16 = VitShape(image=224, patch=16, width=768, heads=12, blocks=12, mlp=3072, classes=1000, eps=1e-12)


def random_tensors(shape: VitShape, *, seed: int) -> dict[str, F32]:
    """Weights with the statistics of an initialised network, gains and biases disturbed so that each one matters."""
    rng = np.random.default_rng(seed)
    width = shape.width

    def normal(*size: int, scale: float) -> F32:
        return (rng.standard_normal(size, dtype=np.float32) * np.float32(scale)).astype(np.float32)

    tensors: dict[str, F32] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        tensors[f"{name}.weight"] = normal(outputs, inputs, scale=inputs**-0.5)
        tensors[f"{name}.bias"] = normal(outputs, scale=0.1)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = 1 + normal(width, scale=0.1)
        tensors[f"{name}.bias"] = normal(width, scale=0.1)

    patch = "vit.embeddings.patch_embeddings.projection"
    tensors[f"{patch}.weight"] = normal(width, 3, shape.patch, shape.patch, scale=shape.row_bytes**-0.5)
    tensors[f"{patch}.bias"] = normal(width, scale=0.1)
    tensors["vit.embeddings.cls_token"] = normal(1, 1, width, scale=0.5)
    tensors["vit.embeddings.position_embeddings"] = normal(1, 1 + shape.tokens, width, scale=0.5)
    for number in range(shape.blocks):
        layer = f"vit.encoder.layer.{number}"
        norm(f"{layer}.layernorm_before")
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.attention.{part}", width, width)
        linear(f"{layer}.attention.output.dense", width, width)
        norm(f"{layer}.layernorm_after")
        linear(f"{layer}.intermediate.dense", width, shape.mlp)
        linear(f"{layer}.output.dense", shape.mlp, width)
    norm("vit.layernorm")
    linear("classifier", width, shape.classes)
    return tensors


def fade_keys_and_values(tensors: dict[str, F32], shape: VitShape, *, halving: float, seed: int) -> dict[str, F32]:
    """The same weights with key and value projections whose singular values halve every `halving` directions.

    Trained networks have such spectra and transform codecs live on them; a benchmark of their cost with the flat
    spectrum of a random matrix would count far more, and far shallower, components.
    """
    rng = np.random.default_rng(seed)
    gains = (np.sqrt(shape.width) * 2.0 ** (-np.arange(shape.width) / halving)).astype(np.float32)
    faded = dict(tensors)
    for number in range(shape.blocks):
        for part in ("key", "value"):
            name = f"vit.encoder.layer.{number}.attention.attention.{part}.weight"
            left, right = (rng.standard_normal((shape.width, shape.width), dtype=np.float32) for _ in range(2))
            faded[name] = (left * gains) @ right / np.float32(shape.width)
    return faded
