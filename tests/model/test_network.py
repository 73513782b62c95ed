"""The whole network: its function, its shapes, what it refuses, and determinism."""

import pytest
import torch
from plain_adamss import plain_adamss
from torch import Tensor

from adamss_fl.errors import InputError
from adamss_fl.model import AdaMSS, ModelSettings
from adamss_fl.model.heads import FOREGROUND_PRIOR, SegmentationHead

SMALL = ModelSettings(width=1, bins=4, dropout=0.0)


def images(batch: int = 2, sides: tuple[int, int, int] = (32, 32, 32), seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pet, ct = (torch.rand(batch, 1, *sides, generator=generator) for _ in range(2))
    return pet, ct


def test_forward_and_gradients_equal_the_formulas_written_out() -> None:
    torch.manual_seed(3)
    model = AdaMSS(SMALL).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=parameter.dtype)
    pet, ct = (image.double() for image in images(sides=(32, 16, 48)))
    output = model(pet, ct)
    state = model.state_dict(keep_vars=True)
    segmentation, survival, opening = plain_adamss(state, pet, ct)
    assert output.segmentation is not None
    assert output.survival is not None
    torch.testing.assert_close(output.segmentation, segmentation, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(output.survival, survival, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(output.gate_opening.double(), opening.detach(), rtol=1e-5, atol=1e-6)
    parameters = list(model.parameters())
    mine = torch.autograd.grad(output.segmentation.pow(2).mean() + output.survival.sum(), parameters)
    plain = torch.autograd.grad(segmentation.pow(2).mean() + survival.sum(), parameters)
    a, b = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in (mine, plain))
    assert float((a - b).norm() / b.norm()) < 1e-7


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_trains_on_one_patient_of_32_cubed_with_every_norm(norm: str) -> None:
    model = AdaMSS(ModelSettings(width=1, norm=norm, bins=7))  # type: ignore[arg-type]
    pet, ct = images(batch=1)
    output = model(pet, ct)
    assert output.segmentation is not None
    assert output.survival is not None
    assert output.segmentation.shape == (1, 2, 32, 32, 32)
    assert output.survival.shape == (1, 7)
    (output.segmentation.mean() + output.survival.mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_every_gate_opens_at_one_half_before_training() -> None:
    opening = AdaMSS(SMALL)(*images()).gate_opening
    assert opening.tolist() == [0.5] * 5
    assert not opening.requires_grad


@pytest.mark.parametrize("heads", [("segmentation",), ("survival",)])
def test_a_head_not_asked_for_is_not_run(heads: tuple[str, ...]) -> None:
    model = AdaMSS(SMALL)
    output = model(*images(), heads=heads)
    assert (output.segmentation is None) == ("segmentation" not in heads)
    assert (output.survival is None) == ("survival" not in heads)


def test_tabular_vector_reaches_the_survival_head_only() -> None:
    model = AdaMSS(ModelSettings(width=1, tabular=3)).eval()
    pet, ct = images()
    with torch.no_grad():
        one, other = (model(pet, ct, torch.full((2, 3), value)) for value in (0.0, 1.0))
    assert torch.equal(one.segmentation, other.segmentation)
    assert not torch.equal(one.survival, other.survival)


def test_the_same_seed_gives_the_same_weights_and_forward_pass() -> None:
    outputs = []
    for _ in range(2):
        torch.manual_seed(11)
        outputs.append(AdaMSS(SMALL)(*images()).segmentation)
    assert torch.equal(*outputs)


def test_forward_is_the_same_function_in_channels_last() -> None:
    torch.manual_seed(4)
    model = AdaMSS(SMALL).double()
    pet, ct = (image.double() for image in images())
    contiguous = model(pet, ct).segmentation
    model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    last = model(*(image.contiguous(memory_format=torch.channels_last_3d) for image in (pet, ct))).segmentation
    torch.testing.assert_close(contiguous, last)


ONE = torch.zeros(1, 1, 32, 32, 32)


@pytest.mark.parametrize(
    ("pet", "ct", "says"),
    [
        (torch.zeros(1, 1, 32, 32, 40), torch.zeros(1, 1, 32, 32, 40), r"grid \(32, 32, 40\).*divisible by 16"),
        (torch.zeros(1, 2, 32, 32, 32), ONE, r"pet: expected shape \(B, 1, D, H, W\)"),
        (ONE, torch.zeros(1, 32, 32, 32), r"ct: expected shape"),
        (ONE, torch.zeros(1, 1, 32, 32, 48), r"differ: resample them to one grid"),
        (torch.zeros(1, 1, 0, 32, 32), torch.zeros(1, 1, 0, 32, 32), r"divisible by 16"),
    ],
)
def test_unfit_images_are_refused_in_one_line(pet: Tensor, ct: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        AdaMSS(SMALL)(pet, ct)
    assert "\n" not in str(error.value)


def test_unknown_head_is_refused() -> None:
    with pytest.raises(InputError, match="unknown radiomics"):
        AdaMSS(SMALL)(ONE, ONE, heads=("radiomics",))
    with pytest.raises(InputError, match="unknown survival; use a collection"):
        AdaMSS(SMALL)(ONE, ONE, heads="survival")


@pytest.mark.parametrize("tabular", [None, torch.zeros(1, 2), torch.zeros(2, 3), torch.zeros(3)])
def test_tabular_vector_of_the_wrong_length_is_refused(tabular: Tensor | None) -> None:
    with pytest.raises(InputError, match="tabular: expected shape"):
        AdaMSS(ModelSettings(width=1, tabular=3))(ONE, ONE, tabular)


def test_tabular_vector_without_a_place_for_it_is_refused() -> None:
    with pytest.raises(InputError, match="tabular: expected shape None"):
        AdaMSS(SMALL)(ONE, ONE, torch.zeros(1, 2))


def test_single_voxel_level_is_refused_where_its_norm_has_no_answer() -> None:
    tiny = torch.rand(1, 1, 16, 16, 16)
    with pytest.raises(InputError, match="batch norm cannot train on one voxel"):
        AdaMSS(SMALL)(tiny, tiny)
    assert AdaMSS(SMALL).eval()(tiny, tiny).segmentation is not None
    with pytest.raises(InputError, match="instance norm needs over one voxel"):
        AdaMSS(ModelSettings(width=1, norm="instance"))(tiny, tiny)


@pytest.mark.parametrize(
    "settings", [ModelSettings(width=0), ModelSettings(bins=0), ModelSettings(tabular=-1), ModelSettings(dropout=1.0)]
)
def test_impossible_settings_are_refused_by_name(settings: ModelSettings) -> None:
    with pytest.raises(InputError, match=r"model\.(width|bins|tabular|dropout): "):
        AdaMSS(settings)


@pytest.mark.parametrize("width", [1, 2, 8])
def test_no_map_starts_below_the_prior_whatever_the_seed(width: int) -> None:
    """A map that starts with negative weights on features that are never negative stays empty."""
    for seed in range(20):
        torch.manual_seed(seed)
        head = SegmentationHead(ModelSettings(width=width))
        features = torch.randn(2, 2 * width, 4, 4, 4).relu()
        found = torch.sigmoid(head(features))
        assert found.min() >= FOREGROUND_PRIOR - 1e-6
        assert found.mean() < 0.5
