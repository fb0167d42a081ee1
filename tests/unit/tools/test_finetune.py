"""Fine-tuning: the masked emulation against boards that are simulated one by one, the codes, resumed runs."""

import pytest

pytest.importorskip("torch", reason="needs the tools extra: make test-tools")


from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from tests.unit.tools.tiny_pictures import write_pictures
from tools.export.codec_entry import Source
from tools.export.predictive import fit_predictive
from tools.export.transform import fit_transform
from tools.finetune.divided import divided, project
from tools.finetune.noise import ResidualNoise
from tools.finetune.places import place_features
from tools.finetune.predictive_codes import PredictiveCodes
from tools.finetune.rates import parse_rate
from tools.finetune.recipe import TuneRecipe
from tools.finetune.split import Division, draw, even, uneven
from tools.finetune.transform_codes import TransformCodes
from tools.finetune.tuner import Tuner
from tools.finetune.vector_codes import VectorCodes
from tools.train.dataset import Dataset, open_dataset
from tools.train.network import Vit, VitConfig

torch.set_num_threads(1)  # tiny products: more threads only wait for each other

CONFIG = VitConfig(patch_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
TOKENS = CONFIG.tokens
DIVISIONS = [
    Division(cuts=even(TOKENS, 1)),
    Division(cuts=even(TOKENS, 4)),
    Division(cuts=(0, 1, 9, TOKENS)),
    Division(cuts=(0, 5, 7, TOKENS), lost=1, lost_from=1),
    Division(cuts=even(TOKENS, 2), single_class=True),
]


@pytest.fixture
def network() -> Vit:
    """Weights large enough for attention to matter."""
    torch.manual_seed(3)
    made = Vit(CONFIG).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def coarse(values: Tensor, block: int) -> Tensor:
    """A stand-in for codes that differs from block to block."""
    return (values * (2 + block)).round() / (2 + block)


class Coarse:
    """The same, as `divided` takes it."""

    foretells = False

    def __call__(self, values: Tensor, block: int, heard: Tensor | None) -> Tensor:
        del heard  # what masks take care of
        return coarse(values, block)


class Exact(Coarse):
    """No codes at all."""

    def __call__(self, values: Tensor, block: int, heard: Tensor | None) -> Tensor:
        del block, heard
        return values


@torch.no_grad()
def board_by_board(network: Vit, images: Tensor, division: Division, source: Source) -> Tensor:
    """Every board on its own: own rows exact, messages of others, the head on the mean of the class tokens."""
    whole = network.embed(images)
    ranges = list(zip(division.cuts, division.cuts[1:], strict=False))
    states = [torch.cat([whole[:, :1], whole[:, 1 + a : 1 + b]], dim=1) for a, b in ranges]
    for number, block in enumerate(network.blocks):
        messages = []
        for x in states:
            normed = block.norm1(x)
            match source:
                case Source.KV:
                    messages.append(coarse(project(block, normed)[:, 1:], number))
                case Source.NORMED:
                    messages.append(project(block, coarse(normed[:, 1:], number)))
                case Source.INPUT:
                    messages.append(project(block, block.norm1(coarse(x[:, 1:], number))))
        after = []
        for board, x in enumerate(states):
            heard = [
                message
                for other, message in enumerate(messages)
                if other != board and not (other == division.lost and number >= division.lost_from)
            ]
            own = project(block, block.norm1(x))
            keys, values = torch.cat([own, *heard], dim=1).chunk(2, dim=2)
            query = functional.linear(block.norm1(x), block.qkv.weight[:16], block.qkv.bias[:16])
            heads = [
                functional.scaled_dot_product_attention(query[..., h], keys[..., h], values[..., h])
                for h in (slice(0, 8), slice(8, 16))
            ]
            y = x + block.out(torch.cat(heads, dim=2))
            after.append(y + block.down(functional.gelu(block.up(block.norm2(y)))))
        states = after
    cls = torch.stack([network.norm(states[board][:, 0]) for board in division.speakers])
    return network.head(cls.mean(dim=0))


@pytest.mark.parametrize("source", list(Source))
@pytest.mark.parametrize("division", DIVISIONS)
def test_masks_emulate_boards(network: Vit, division: Division, source: Source) -> None:
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        emulated = divided(network, images, division, source, Coarse()).logits
    torch.testing.assert_close(emulated, board_by_board(network, images, division, source), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", list(Source))
@pytest.mark.parametrize("cuts", [even(TOKENS, 1), even(TOKENS, 8), (0, 1, 9, TOKENS)])
def test_without_codes_the_division_changes_nothing(network: Vit, source: Source, cuts: tuple[int, ...]) -> None:
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        # Class tokens do not see each other, but all of them see the same tokens and stay equal... to rounding.
        outcome = divided(network, images, Division(cuts=cuts), source, Exact())
        torch.testing.assert_close(outcome.logits, network(images), rtol=1e-4, atol=1e-5)


def test_divisions_are_contiguous_and_cover_every_token() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        division = draw(16, rng, boards=(2, 3, 8), uneven_share=0.5, loss_rate=0.5, blocks=3)
        assert division.cuts[0] == 0
        assert division.cuts[-1] == 16
        assert min(np.diff(division.cuts)) >= 1
        assert division.lost < division.boards
        assert 1 <= len(division.speakers) <= division.boards
    assert len({uneven(16, 3, rng) for _ in range(20)}) > 5


@pytest.fixture
def values() -> Tensor:
    """Correlated vectors, [2000, 16]."""
    torch.manual_seed(0)
    return torch.randn(2000, 16) @ torch.randn(16, 16) * torch.linspace(2, 0.1, 16) + 1


def error(codes: torch.nn.Module, values: Tensor) -> float:
    """Mean squared error."""
    with torch.no_grad():
        return float((codes(values) - values).square().mean())


def test_each_stage_of_residual_codes_halves_the_error_at_least(values: Tensor) -> None:
    codes = VectorCodes(values, groups=4, codes=16, stages=3, rotated=False, seed=0)
    errors = [float((codes(values, stages=count) - values).square().mean()) for count in (1, 2, 3)]
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2


def test_rotated_codes_beat_plain_ones_on_correlated_vectors(values: Tensor) -> None:
    plain, rotated = (VectorCodes(values, groups=4, codes=16, stages=1, rotated=r, seed=0) for r in (False, True))
    assert error(rotated, values) < 0.8 * error(plain, values)


def test_codes_follow_vectors_that_move_and_dead_ones_come_back(values: Tensor) -> None:
    codes = VectorCodes(values, groups=4, codes=16, stages=1, rotated=False, seed=0)
    codes.codes[0, 0] = 1000 + torch.arange(16.0)[:, None]  # nothing chooses these but one
    moved = values + 3
    before, source = error(codes, moved), torch.Generator().manual_seed(0)
    for _ in range(60):
        codes.follow(moved, decay=0.8, revive=0.05, source=source)
    assert error(codes, moved) < 0.2 * before
    assert len(codes.codes[0, 0].unique(dim=0)) == 16
    assert float(codes.codes.max()) < 100


def test_transform_codes_match_the_exporters_and_pass_gradients_along_what_is_sent(values: Tensor) -> None:
    codes = TransformCodes(values, bits=12, components=0)
    fit = fit_transform(values.numpy(), 12)
    np.testing.assert_allclose(codes(values).numpy(), fit.rebuild(fit.nearest(values.numpy())), rtol=1e-4, atol=1e-4)
    own = values[:5].clone().requires_grad_(True)
    codes(own).sum().backward()
    assert own.grad is not None
    kept = codes.analysis @ codes.synthesis
    torch.testing.assert_close(own.grad, (kept @ torch.ones(16)).expand(5, 16))


@pytest.mark.parametrize(("bits", "codes"), [(12, 0), (0, 16)])
def test_predictive_codes_are_as_good_as_the_exporters(values: Tensor, bits: int, codes: int) -> None:
    state, known = torch.zeros(len(values), 4), np.zeros((len(values), 4), dtype=np.float32)
    for number in range(3):
        block = values + number * values.roll(1, dims=1)  # each block an affine function of the tokens, like K|V
        made = PredictiveCodes(block, state, bits=bits, codes=codes, count=4, heads=2, seed=number)
        before, state = state, made.refit(block, state)
        fit = fit_predictive(block.numpy(), known, bits=bits, codes=codes, seed=number)
        known = fit.after(fit.nearest(block.numpy(), known), known)
        errors = [float((made(block, before)[0] - block).square().mean())]
        errors.append(float(np.square(fit.rebuild(known) - block.numpy()).mean()))
        # Not to the last digit: a value on a threshold falls to either side, and codes lie in a file as f16.
        assert errors[0] == pytest.approx(errors[1], rel=0.03)


def test_gradients_reach_the_tokens_through_the_state(values: Tensor) -> None:
    blank = torch.zeros(len(values), 4)
    first = PredictiveCodes(values, blank, bits=12, codes=0, count=4, heads=2, seed=0)
    state = first.refit(values, blank)
    second = PredictiveCodes(2 * values, state, bits=4, codes=0, count=4, heads=2, seed=0)
    second.refit(2 * values, state)
    own = values[:5].clone().requires_grad_(True)
    _, left = first(own, blank[:5])
    second(2 * own.detach(), left)[0].sum().backward()
    assert own.grad is not None
    assert float(own.grad.abs().max()) > 0.1


def test_a_learned_bottleneck_turns_to_what_matters(values: Tensor) -> None:
    codes = TransformCodes(values, bits=12, components=6)

    def wrong() -> Tensor:
        return (codes(values) - values)[:, -4:].square().mean()  # hardly any variance, all of the loss

    before = float(wrong().detach())
    optimiser = torch.optim.Adam(codes.parameters(), lr=0.01)
    for _ in range(100):
        optimiser.zero_grad()
        wrong().backward()
        optimiser.step()
    assert float(wrong().detach()) < 0.7 * before


def test_noise_has_the_moments_of_the_residual() -> None:
    noise, source = ResidualNoise(2), torch.Generator().manual_seed(0)
    residual = torch.randn(50_000, 2, generator=source) * torch.tensor([0.5, 2.0]) + torch.tensor([1.0, -1.0])
    noise.observe(residual)
    drawn = noise.sample(residual, 1.0, source)
    torch.testing.assert_close(drawn.mean(dim=0), torch.tensor([1.0, -1.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(dim=0), torch.tensor([0.5, 2.0]), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("tc53", 53),
        ("tc26-normed", 26),
        ("vq8x256", 64),
        ("astra-g16", 160),
        ("rq2x64x3", 36),
        ("fs5x2", 10),
        ("oq4x16", 16),
        ("ptc53", 53),
        ("pvq7", 7),
        ("ptc53x2", 53),
    ],
)
def test_names_tell_the_rate(name: str, bits: int) -> None:
    assert parse_rate(name).token_bits == bits


@pytest.mark.parametrize("name", ["", "tc", "vq8", "rq2x64", "int8", "tc53x2", "astra-g16-normed", "ptc", "pvq1x128"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no codec to fine-tune"):
        parse_rate(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten classes are not needed: three."""
    base = tmp_path_factory.mktemp("pictures")
    return open_dataset(write_pictures(base / "set"), name="own", cache=base / "cache")


RECIPE = TuneRecipe(
    steps=6,
    batch=4,
    boards=(1, 2, 4),
    noise=1.0,
    codecs=("tc12", "vq2x8", "rq2x8x2-normed", "astra-g2", "oq2x8", "fs4x2", "ptc12", "pvq3", "ptc6x2"),
    calibration=20,
    refit=2,
    holdout=4,
)


def tuner(data: Dataset, run: Path, recipe: TuneRecipe = RECIPE) -> Tuner:
    """A run as the command starts it, with few codes so that few pictures are enough."""
    torch.manual_seed(5)
    network = Vit(replace(CONFIG, num_labels=3))
    made = Tuner(recipe=recipe, network=network, data=data, run=run, device=torch.device("cpu"))
    made.resume()
    return made


def test_a_resumed_run_ends_like_an_uninterrupted_one(data: Dataset, tmp_path: Path) -> None:
    tuner(data, tmp_path / "whole").fit(every=100)
    tuner(data, tmp_path / "cut").fit(every=100, stop=3)
    tuner(data, tmp_path / "cut").fit(every=100)
    for name in ("model.safetensors", "codecs.safetensors"):
        whole, cut = load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name)
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert {key.split(".")[0] for key in whole} == set(RECIPE.codecs)


def test_places_are_known_to_both_sides_and_cost_no_bits(values: Tensor) -> None:
    place = torch.arange(len(values)) % 8
    spread = 6 * torch.randn(8, 16)
    placed = values + spread[place]  # most of what a token is, it is by its place
    samples = [{"kv": placed, "place": place}, {"kv": 2 * placed, "place": place}]
    features = place_features(samples, 8)
    assert features.shape == (8, 7)
    start = functional.pad(features[place], (12, 0))
    errors = []
    for state in (torch.zeros(len(values), 12), start):
        codes = PredictiveCodes(placed, state, bits=12, codes=0, count=12, heads=0, seed=0)
        following = codes.refit(placed, state)
        assert torch.equal(following[:, 12:], state[:, 12:])
        errors.append(float((codes(placed, state)[0] - placed).square().mean()))
    assert errors[1] < 0.6 * errors[0]
