"""All codecs of one fine-tuning run: each with codes for every block, one of them in use per batch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.export.predictive import default_state, share_bits, speaking_bits
from tools.finetune.noise import ResidualNoise
from tools.finetune.places import place_features
from tools.finetune.predictive_codes import PredictiveCodes
from tools.finetune.rates import Form, Rate
from tools.finetune.recipe import TuneRecipe
from tools.finetune.transform_codes import TransformCodes
from tools.finetune.vector_codes import VectorCodes
from tools.train.network import VitConfig

Codes: TypeAlias = VectorCodes | TransformCodes | PredictiveCodes


class Bank(nn.Module):
    """Codes of every rate and block, and the noise of their residuals."""

    features: Tensor  # [T, Q] of every place, see `place_features`

    def __init__(
        self, rates: Sequence[Rate], samples: Sequence[dict[str, Tensor]], recipe: TuneRecipe, config: VitConfig
    ) -> None:
        """`samples`: per block, vectors [n, W] of the undivided network, of shape `config`, by their source's name."""
        super().__init__()
        self.rates, self.recipe = tuple(rates), recipe
        features = place_features(samples, config.tokens) if recipe.places else torch.zeros(config.tokens, 0)
        self.register_buffer("features", features)
        heads = config.num_attention_heads if recipe.readout else 0
        # By rate, by block.
        self.codes = nn.ModuleList(nn.ModuleList(_start(rate, samples, features, heads)) for rate in rates)
        self.noise = nn.ModuleList(
            nn.ModuleList(ResidualNoise(block[rate.source.value].shape[1]) for block in samples) for rate in rates
        )

    def of(self, index: int) -> list[Codes]:
        """Codes of every block for codec number `index`."""
        return list(cast("Iterable[Codes]", self.codes[index]))

    def readouts(self) -> list[nn.Parameter]:
        """What heads learn about reading codes."""
        codes = (each for index in range(len(self.rates)) for each in self.of(index))
        found = (each.readout for each in codes if isinstance(each, PredictiveCodes))
        return [parameter for readout in found if readout is not None for parameter in readout.parameters()]

    def noise_of(self, index: int, block: int) -> ResidualNoise:
        """Noise of the residual of codec number `index` in a block."""
        return list(cast("Iterable[ResidualNoise]", self.noise[index]))[block]

    def recoder(self, index: int, *, stages: int | None = None) -> "Recoder":
        """Codec number `index`, for inference."""
        return Recoder(bank=self, index=index, stages=stages, source=None)

    def tensors(self) -> dict[str, Tensor]:
        """`NAME.BLOCK.FIELD` of all codes: the content of codecs.safetensors."""
        found = {
            f"{rate.name}.{number}.{field}": tensor
            for index, rate in enumerate(self.rates)
            for number, codes in enumerate(self.of(index))
            for field, tensor in codes.tensors().items()
        }
        if self.features.shape[1]:
            places = torch.arange(len(self.features))
            predictive = (index for index, rate in enumerate(self.rates) if rate.predictive)
            found |= {f"{self.rates[index].name}.0.start": self.start(index, places) for index in predictive}
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}

    def entries(self) -> list[dict[str, object]]:
        """The content of codecs.json."""
        return [
            {"name": rate.name, "kind": rate.kind, "source": rate.source.value, "stages": rate.stages}
            for rate in self.rates
        ]

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a state_dict; transforms may have other numbers of components than those fitted at the start."""
        for name, tensor in state.items():
            path, _, field = name.rpartition(".")
            owner = self.get_submodule(path)
            if field in dict(owner.named_parameters(recurse=False)):
                owner.get_parameter(field).copy_(tensor)
            else:
                owner.register_buffer(field, tensor.to(owner.get_buffer(field).device))

    @torch.no_grad()
    def refit(self, samples: Sequence[dict[str, Tensor]]) -> None:
        """Fit the transforms again to vectors of the network as it is now."""
        for index, rate in enumerate(self.rates):
            state = self.start(index, samples[0]["place"])
            for codes, block in zip(self.of(index), samples, strict=True):
                match codes:
                    case TransformCodes():
                        codes.refit(block[rate.source.value])
                    case PredictiveCodes():
                        state = codes.refit(block[rate.source.value], state)

    def start(self, index: int, places: Tensor) -> Tensor:
        """The state before the first block of the tokens at `places` i64 [n], by codec number `index`: [n, M+Q]."""
        first = self.of(index)[0]
        count = first.count if isinstance(first, PredictiveCodes) else 0
        return functional.pad(self.features[places.to(self.features.device)], (count, 0))


class Recoder:
    """One codec in use: turns the values of a block into what other boards rebuild, and keeps the commitment loss."""

    def __init__(self, *, bank: Bank, index: int, stages: int | None, source: torch.Generator | None) -> None:
        """With a `source` of randomness it trains: noise, moving averages, straight-through gradients."""
        self.bank, self.index, self.stages, self.source = bank, index, stages, source
        self.commitment = torch.zeros(())
        self.rate = bank.rates[index]
        self._state = torch.zeros(0)  # of codes that predict: what those of the block before said

    @property
    def foretells(self) -> bool:
        """Whether tokens whose codes stay out are rebuilt from earlier ones."""
        return self.rate.predictive

    def __call__(self, values: Tensor, block: int, heard: Tensor | None = None) -> Tensor:
        """values [B, T, W] -> f32 of the same shape; `heard` bool [T]: whose codes arrive, None: all."""
        recipe, codes = self.bank.recipe, self.bank.of(self.index)[block]
        with torch.autocast(values.device.type, enabled=False):
            flat = values.reshape(-1, values.shape[-1]).float()
            rebuilt: Tensor
            if not block:
                self._state = self.bank.start(self.index, torch.arange(values.shape[1]).repeat(len(values)))
            before = self._state
            arrived = None if heard is None else heard.to(flat.device).repeat(len(values))
            if isinstance(codes, PredictiveCodes):
                rebuilt, self._state = codes(flat, before, arrived)
                if not codes.transforms and recipe.straight_through:
                    straight = flat if arrived is None else flat * arrived[:, None]
                    rebuilt = straight + (rebuilt - straight).detach()
                elif not recipe.straight_through:
                    rebuilt = rebuilt.detach()
            elif isinstance(codes, VectorCodes):
                rebuilt = codes(flat, stages=self.stages)
                if recipe.straight_through:
                    rebuilt = flat + (rebuilt - flat).detach()
            else:
                rebuilt = codes(flat)
                if not recipe.straight_through and not codes.learned:
                    rebuilt = rebuilt.detach()
            if self.source is not None:
                # What is lost shall not move codes, nor vectors towards them.
                known = slice(None) if arrived is None else arrived
                self._follow(flat[known], rebuilt[known], block, before[known] if len(before) else before)
                if recipe.noise > 0 and torch.is_grad_enabled():
                    rebuilt = rebuilt + self.bank.noise_of(self.index, block).sample(flat, recipe.noise, self.source)
            if isinstance(codes, PredictiveCodes) and codes.readout is not None:
                rebuilt = codes.readout(rebuilt)
        return rebuilt.view(values.shape)

    def _follow(self, flat: Tensor, rebuilt: Tensor, block: int, before: Tensor) -> None:
        """Moving averages, and the commitment to what was rebuilt."""
        recipe, source = self.bank.recipe, self.source
        assert source is not None
        self.commitment = self.commitment + (flat - rebuilt.detach()).square().sum(dim=1).mean()
        if recipe.noise > 0:
            self.bank.noise_of(self.index, block).observe((flat - rebuilt).detach())
        codes = self.bank.of(self.index)[block]
        averaging = {"decay": recipe.code_average, "revive": recipe.revive}
        if isinstance(codes, VectorCodes):
            codes.follow(flat, **averaging, source=source)
        elif isinstance(codes, PredictiveCodes):
            codes.follow(flat, before, **averaging, source=source)


def _start(rate: Rate, samples: Sequence[dict[str, Tensor]], features: Tensor, heads: int) -> Iterator[Codes]:
    """Codes of one block after the other, fitted to its samples.

    `features` [T, Q] of every place; `heads`: for which they get a readout.
    """
    count = default_state(samples[0][rate.source.value].shape[1], rate.bits) if rate.predictive else 0
    state = functional.pad(features[samples[0]["place"]], (count, 0))
    for number, block in enumerate(samples):
        values = block[rate.source.value]
        if rate.predictive:
            share = 1 << share_bits(rate.bits, len(samples))[number] if rate.groups else 0
            bits = 0 if rate.groups else speaking_bits(rate.bits, rate.every, len(samples))[number]
            codes = PredictiveCodes(values, state, bits=bits, codes=share, count=count, heads=heads, seed=number)
            state = codes.refit(values, state)
            yield codes
        elif rate.form is Form.TRANSFORM:
            yield TransformCodes(values, bits=rate.bits, components=rate.components)
        else:
            yield VectorCodes(
                values, groups=rate.groups, codes=rate.codes, stages=rate.stages, rotated=rate.rotated, seed=number
            )
