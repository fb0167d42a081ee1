"""Everything that decides the result of a training run, apart from the data."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Parameters of a run; a checkpoint goes on only under the recipe that it was made with."""

    kind: str = "vit"  # "vit", or "convnet": the teacher
    seed: int = 1
    start: str = ""  # folder of a trained network of the same shape to start from, its head left out
    epochs: float = 12.0
    batch: int = 128
    rate: float = 2e-3  # peak learning rate of matrices (Muon) and, without Muon, of everything
    rate_rest: float = 1e-3  # peak learning rate of vectors, embeddings and the head, which Muon leaves to AdamW
    muon: bool = True
    warm_up: float = 0.03  # share of the steps
    decay: float = 0.05  # weight decay, matrices only
    clip: float = 1.0  # largest norm of the gradient of what AdamW updates
    average: float = 0.998  # decay of the weights' moving average; the average is what is saved
    bf16: bool = True
    holdout: int = 1000  # training images set aside for the progress reports; the test images are used once, at the end
    # Augmentation
    shift: int = 4  # pixels a picture moves at most, borders mirrored
    flip: bool = True
    jitter: float = 0.0  # brightness and contrast, relative
    grain: float = 0.007  # fine colour noise (values in 0..1) for pictures that a lossy format has smoothed
    erase: int = 0  # side of a square that is blanked, pixels
    mix: float = 0.0  # strength (alpha) of mixup; 0 is off
    # Loss
    smoothing: float = 0.1
    teacher: str = ""  # folder of a trained convnet; "" trains on the labels alone
    soft: float = 0.7  # share of the loss that follows the teacher's logits
    temperature: float = 2.0
    guide: float = 1.0  # weight of the loss that draws tokens to the teacher's feature maps
    # ViT
    patch: int = 4
    width: int = 128
    blocks: int = 6
    heads: int = 4
    mlp: int = 512
    mimetic: bool = True  # attention starts near the identity (arXiv 2305.09828)
    # Convnet
    channels: tuple[int, int, int] = (64, 128, 256)

    def learning_rate(self, peak: float, share: float) -> float:
        """Linear warm-up, then half a cosine down to zero; `share` of the run is done, 0..1."""
        if share < self.warm_up:
            return peak * max(share, 1e-4) / self.warm_up
        return peak * 0.5 * (1 + math.cos(math.pi * (share - self.warm_up) / (1 - self.warm_up)))
