"""Batch norm on a CPU equals fp64's to rounding, whatever the number of channels and voxels."""

import pytest
import torch
from torch import Tensor, nn

from adamss_fl.model.batch_norm import FEWEST_VOXELS, BatchNorm3d, is_ours
from adamss_fl.model.layout import channels_last, is_channels_last


def random_norm(channels: int) -> BatchNorm3d:
    norm = BatchNorm3d(channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    return norm


def error(mine: Tensor, exact: Tensor) -> float:
    return float((mine.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    "shape", [(2, 1, 16, 8, 16), (1, 2, 16, 16, 16), (1, 3, 32, 8, 16), (3, 16, 8, 8, 16), (2, 96, 8, 16, 12)]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_norm_and_its_gradients_equal_those_of_fp64(
    shape: tuple[int, ...], relu: bool, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(shape[1])
    norm = random_norm(shape[1])
    reference = nn.BatchNorm3d(shape[1])
    reference.load_state_dict(norm.state_dict())
    reference.double()
    x = channels_last(5 + 3 * torch.randn(shape)).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    assert is_ours(x, norm)
    mine, plain = norm.with_relu(x) if relu else norm(x), reference(exact)
    plain = torch.relu(plain) if relu else plain
    assert mine.dtype == dtype
    assert is_channels_last(mine)
    assert error(mine, plain) < tolerance
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(buffer.double(), reference.get_buffer(name).double(), rtol=1e-6, atol=1e-6)
    # A voxel that one side cuts off and the other does not, by rounding, is no error of the gradient.
    seen = torch.randn_like(plain) * ((plain > 0.05) | (not relu))
    seen = seen.to(dtype)
    mine_gradients = torch.autograd.grad(mine, [x, norm.weight, norm.bias], seen)
    plain_gradients = torch.autograd.grad(plain, [exact, reference.weight, reference.bias], seen.double())
    for a, b in zip(mine_gradients, plain_gradients, strict=True):
        assert error(a, b) < 5 * tolerance


def errors_at_112(channels: int, *, ours: bool) -> tuple[float, float]:
    """Largest errors at 112^3, mean / sd = 3: output over max(1, |output|), and running variance, relative."""
    torch.manual_seed(0)
    x = channels_last(3 + torch.randn(1, channels, 112, 112, 112))
    norm = BatchNorm3d(channels) if ours else nn.BatchNorm3d(channels)
    y = norm(x)
    mean, variance = (x.double().flatten(2).mean(2), x.double().flatten(2).var(2, correction=0))
    exact = (x.double() - mean.view(1, -1, 1, 1, 1)) * torch.rsqrt(variance + norm.eps).view(1, -1, 1, 1, 1)
    assert norm.running_var is not None
    running = 0.9 + 0.1 * variance[0] * (112**3 / (112**3 - 1))
    return float(((y - exact).abs() / exact.abs().clamp_min(1)).max()), float(
        ((norm.running_var - running) / running).abs().max()
    )


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 4, 16])
def test_output_and_running_variance_are_exact_at_the_published_crop(channels: int) -> None:
    output, running = errors_at_112(channels, ours=True)
    assert output < 1e-6
    assert running < 1e-6


@pytest.mark.slow
def test_pytorchs_own_sums_are_not_exact_there() -> None:
    """The bound above is no matter of course: without the folding it is missed by far."""
    output, running = errors_at_112(16, ours=False)
    assert output > 1e-5
    assert running > 1e-6


def test_norm_is_left_to_pytorch_where_it_is_exact_enough_or_faster() -> None:
    x = channels_last(torch.zeros(1, 2, 16, 16, 16))
    assert is_ours(x, nn.BatchNorm3d(2))
    assert not is_ours(x.contiguous(), nn.BatchNorm3d(2))
    assert not is_ours(x.double(), nn.BatchNorm3d(2))
    assert not is_ours(channels_last(torch.zeros(FEWEST_VOXELS // 512, 2, 8, 8, 8)), nn.BatchNorm3d(2))
    with torch.no_grad():
        assert is_ours(x, nn.BatchNorm3d(2).eval())
        assert not is_ours(channels_last(torch.zeros(1, 8, 16, 16, 16)), nn.BatchNorm3d(8).eval())


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("relu", [True, False])
def test_frozen_statistics_are_used_and_left_alone(channels: int, relu: bool) -> None:
    torch.manual_seed(channels)
    norm = random_norm(channels)
    norm(channels_last(2 + torch.randn(2, channels, 16, 8, 16)))
    norm.eval()
    reference = nn.BatchNorm3d(channels)
    reference.load_state_dict(norm.state_dict())
    reference.double().eval()
    x = channels_last(2 + torch.randn(2, channels, 16, 16, 16)).requires_grad_()
    exact = x.detach().double().requires_grad_()
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    assert is_ours(x, norm)
    mine, plain = norm.with_relu(x) if relu else norm(x), reference(exact)
    plain = torch.relu(plain) if relu else plain
    assert error(mine, plain) < 1e-6
    seen = torch.randn_like(plain) * ((plain > 0.05) | (not relu))
    mine_gradients = torch.autograd.grad(mine, [x, norm.weight, norm.bias], seen.float())
    plain_gradients = torch.autograd.grad(plain, [exact, reference.weight, reference.bias], seen.float().double())
    for a, b in zip(mine_gradients, plain_gradients, strict=True):
        assert error(a, b) < 5e-6
    assert all(torch.equal(before[name], buffer) for name, buffer in norm.named_buffers())
