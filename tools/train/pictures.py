"""A data set on the device, with the training pictures that are set aside for progress reports."""

from collections.abc import Callable

import torch
from torch import Tensor

from tools.train.augmentation import normalise
from tools.train.dataset import Dataset

BATCH = 500


class Pictures:
    """u8 pictures [n, H, W, 3] and labels i64 [n] of one data set."""

    def __init__(self, data: Dataset, *, holdout: int, seed: int, device: torch.device) -> None:
        """`holdout` training pictures, at most a tenth, drawn with the seed over all classes, are set aside."""
        self.device, self.classes, self.seed = device, len(data.classes), seed
        self.mean, self.std = torch.tensor(data.mean, device=device), torch.tensor(data.std, device=device)
        order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(seed))
        holdout = min(holdout, len(order) // 10)
        held, used = order[:holdout], order[holdout:]
        images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
        self.images, self.labels = images[used].to(device), labels[used].to(device)
        self.held = (images[held].to(device), labels[held].to(device))
        self.test = (torch.from_numpy(data.test.images), torch.from_numpy(data.test.labels))
        self._order, self._epoch = torch.empty(0), -1

    def prepare(self, images: Tensor) -> Tensor:
        """u8 [n, H, W, 3] -> normalised f32 [n, 3, H, W]."""
        return normalise(images.to(self.device), self.mean, self.std)

    def batch(self, step: int, size: int) -> Tensor:
        """Indices of a step's training pictures: shuffled epochs cut into batches, a rest left out."""
        epoch, place = divmod(step, self.batches(size))
        if epoch != self._epoch:
            source = torch.Generator().manual_seed(self.seed * 7919 + epoch)
            self._order, self._epoch = torch.randperm(len(self.labels), generator=source).to(self.device), epoch
        return self._order[place * size : (place + 1) * size]

    def batches(self, size: int) -> int:
        """Batches of an epoch."""
        return max(1, len(self.labels) // size)

    @torch.no_grad()
    def accuracy(self, network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
        """Share of right answers of a network that turns prepared pictures into logits; 0 without pictures."""
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for start in range(0, len(labels), BATCH):
            logits = network(self.prepare(images[start : start + BATCH]))
            right += (logits.argmax(1) == labels[start : start + BATCH].to(self.device)).sum()
        return int(right) / max(1, len(labels))
