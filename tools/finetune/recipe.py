"""Everything that decides the result of fine-tuning, apart from the data and the model it starts from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRecipe:
    """Parameters of a run; every switch of the ablation table is one field."""

    seed: int = 1
    steps: int = 400
    batch: int = 64
    rate: float = 2e-4  # peak learning rate, AdamW
    warm_up: float = 0.05  # share of the steps
    decay: float = 0.02
    average: float = 0.99  # moving average of the weights; the average is what is saved
    bf16: bool = True
    holdout: int = 1000  # training images set aside for reports; set aside by the same seed as in tools.train
    shift: int = 4
    flip: bool = True
    grain: float = 0.007  # as in tools.train
    # What is divided
    boards: tuple[int, ...] = (1, 2, 3, 4, 6, 8)  # one number is drawn per batch; 1 keeps the undivided model good
    uneven: bool = True  # random contiguous ranges instead of even ones, in half of the batches
    class_tokens: bool = (
        True  # every board has its own class token and they are averaged; off: board 0 has the only one
    )
    loss_rate: float = 0.1  # share of the batches in which one board dies at a random round
    # Codes
    codecs: tuple[str, ...] = ("tc53",)  # one is drawn per batch; names as in tools.finetune.rates
    favour: float = 0.5  # codecs are drawn in proportion to their bits to the power of minus this
    calibration: int = 1000  # training pictures on which codes start (and transforms are fitted again at the end)
    refit: int = 100  # steps between new transforms; 0: those of the start stay until the end
    places: bool = True  # start from what a token's place says of it; codes that predict only
    readout: bool = True  # each head learns how to read rebuilt keys and values; codes that predict only
    readout_speed: float = 5.0  # their learning rate, as a multiple of the network's: they start at the identity
    straight_through: bool = True
    commitment: float = 2e-4  # beta: pull of vectors towards their codes, per block
    noise: float = 0.0  # lambda of noise-augmented quantisation
    code_average: float = 0.99  # decay of the codes' moving average
    revive: float = 0.02  # a code seen less than this share of the mean usage is put on a random vector
    # Distillation from the undivided model as it was before
    soft: float = 0.7  # share of the loss that follows its logits
    temperature: float = 2.0
    features: float = 0.5  # weight of the squared error of every block's tokens
    smoothing: float = 0.1
