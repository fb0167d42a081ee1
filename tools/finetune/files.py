"""A fine-tuned run on disk: the network as tools.train leaves it, and its codes beside it."""

from pathlib import Path

from tools.finetune.bank import Bank
from tools.train.dataset import Dataset
from tools.train.models import publish
from tools.train.network import Vit
from tools.train.store import write_json, write_tensors


def publish_tuned(run: Path, network: Vit, bank: Bank, data: Dataset) -> None:
    """Write model.safetensors, config.json, codecs.safetensors and codecs.json; raises RunError."""
    publish(run, network, data)
    write_tensors(run / "codecs.safetensors", bank.tensors())
    write_json(run / "codecs.json", {"codecs": bank.entries()})
