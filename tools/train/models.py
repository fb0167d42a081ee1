"""Networks built from a recipe, and trained ones written to and read from a folder."""

import json
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tools.train.convnet import ConvConfig, ConvNet
from tools.train.dataset import Dataset
from tools.train.mimetic import start_mimetic
from tools.train.network import Vit, VitConfig, from_hf, hf_tensors
from tools.train.recipe import Recipe
from tools.train.store import RunError, write_json, write_tensors


def build(recipe: Recipe, data: Dataset) -> Vit | ConvNet:
    """An untrained network; its weights follow from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    network = _fresh(recipe, data)
    if recipe.start:
        _start_from(Path(recipe.start), network)
    return network


def _start_from(folder: Path, network: Vit | ConvNet) -> None:
    try:
        tensors = load_file(folder / "model.safetensors")
        state = from_hf(tensors, network.config) if isinstance(network, Vit) else tensors
        body = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
        network.load_state_dict({**network.state_dict(), **body})
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder} holds no trained network to start from") from error
    except (KeyError, RuntimeError) as error:
        raise RunError(f"the network in {folder} has another shape than the recipe asks for") from error


def _fresh(recipe: Recipe, data: Dataset) -> Vit | ConvNet:
    if recipe.kind == "convnet":
        return ConvNet(ConvConfig(channels=recipe.channels, num_labels=len(data.classes)))
    network = Vit(
        VitConfig(
            image_size=data.side,
            patch_size=recipe.patch,
            hidden_size=recipe.width,
            num_hidden_layers=recipe.blocks,
            num_attention_heads=recipe.heads,
            intermediate_size=recipe.mlp,
            num_labels=len(data.classes),
        )
    )
    if recipe.mimetic:
        start_mimetic(network)
    return network


def publish(run: Path, network: Vit | ConvNet, data: Dataset) -> None:
    """Write model.safetensors (a ViT under HF names) and config.json; raises RunError."""
    labels = {
        "id2label": {str(index): name for index, name in enumerate(data.classes)},
        "label2id": {name: index for index, name in enumerate(data.classes)},
        "image_mean": data.mean,
        "image_std": data.std,
    }
    if isinstance(network, ConvNet):
        shape: dict[str, object] = {"model_type": "convnet", "channels": network.config.channels}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    else:
        shape = network.config.as_json()
        state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
        tensors = hf_tensors(state, network.config)
    write_tensors(run / "model.safetensors", tensors)
    write_json(run / "config.json", {**shape, **labels})


def load_teacher(folder: Path, data: Dataset) -> ConvNet:
    """A published convnet for the same classes; raises RunError."""
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"{folder} holds no trained teacher: train one with --kind convnet --run {folder}") from error
    if config.get("model_type") != "convnet":
        raise RunError(f"{folder} holds a {config.get('model_type')}, and a teacher is a convnet")
    if list(config["label2id"]) != list(data.classes):
        raise RunError(f"the teacher in {folder} knows other classes than the data set: train one on this data")
    teacher = ConvNet(ConvConfig(channels=tuple(config["channels"]), num_labels=len(data.classes)))
    teacher.load_state_dict(tensors)
    return teacher.requires_grad_(False)


def load_vit(folder: Path, data: Dataset) -> Vit:
    """A ViT under HF names that tells apart the classes of the data set; raises RunError."""
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"{folder} holds no trained ViT: config.json and model.safetensors are needed") from error
    if config.get("model_type") != "vit":
        raise RunError(f"{folder} holds a {config.get('model_type')}, and a plain ViT is needed")
    sizes = {field.name: config[field.name] for field in fields(VitConfig) if field.name in config}
    shape = VitConfig(**{**sizes, "num_labels": len(config["label2id"])})  # HF folders need not name the number
    if tuple(config["label2id"]) != data.classes or shape.image_size != data.side:
        raise RunError(f"the model in {folder} was trained on other classes or picture sizes than this data set has")
    network = Vit(shape)
    try:
        network.load_state_dict(from_hf(tensors, shape))
    except (KeyError, RuntimeError) as error:
        raise RunError(f"{folder}: a tensor is missing or has another shape ({str(error).splitlines()[0]})") from error
    return network
