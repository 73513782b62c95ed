"""Convolution in fp32 on a CPU equals fp64's, in every shape that the network has."""

import pytest
import torch
from torch.nn import functional

from adamss_fl.model import AdaMSS, ModelSettings, prepare
from adamss_fl.model import batch_norm as batch_norm_module
from adamss_fl.model import convolution as convolution_module
from adamss_fl.model.convolution import convolve, is_ours
from adamss_fl.model.layout import channels_last, is_channels_last

CASES = [
    # batch, in, out, kernel, padding, sides
    (1, 1, 4, 3, 1, (8, 6, 4)),
    (1, 3, 5, 3, 1, (7, 4, 6)),
    (1, 16, 8, 3, 1, (2, 2, 2)),
    (1, 8, 16, 3, 1, (1, 2, 3)),
    (1, 4, 12, 2, 1, (4, 4, 4)),
    (1, 4, 12, 2, 1, (5, 3, 4)),
    (1, 6, 2, 1, 0, (5, 4, 3)),
    (1, 16, 2, 1, 0, (4, 4, 4)),
    (3, 2, 4, 1, 0, (4, 4, 4)),
    (3, 24, 8, 1, 0, (3, 4, 5)),
    (2, 5, 3, 3, 1, (4, 6, 8)),
    (1, 2, 3, 1, 1, (3, 4, 2)),  # padding as wide as the kernel
    (1, 8, 3, 3, 3, (3, 4, 2)),
]


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("batch", "channels_in", "channels_out", "kernel", "padding", "sides"), CASES)
def test_convolution_and_its_gradients_equal_those_of_fp64(
    batch: int, channels_in: int, channels_out: int, kernel: int, padding: int, sides: tuple[int, ...], biased: bool
) -> None:
    torch.manual_seed(0)
    x = channels_last(torch.randn(batch, channels_in, *sides)).requires_grad_()
    weight = channels_last(torch.randn(channels_out, channels_in, *[kernel] * 3)).requires_grad_()
    bias = torch.randn(channels_out, requires_grad=True) if biased else None
    inputs = [tensor for tensor in (x, weight, bias) if tensor is not None]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    mine, plain = convolve(x, weight, bias, padding), functional.conv3d(*exact, padding=padding)
    assert is_channels_last(mine) or not is_ours(x, kernel) or padding >= kernel
    torch.testing.assert_close(mine.double(), plain, rtol=1e-5, atol=1e-5)
    seen = torch.randn_like(mine)
    for a, b in zip(
        torch.autograd.grad(mine, inputs, seen), torch.autograd.grad(plain, exact, seen.double()), strict=True
    ):
        assert float((a.double() - b).norm() / b.norm()) < 1e-5


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_only_the_gradients_that_are_needed_are_made(kernel: int) -> None:
    x = channels_last(torch.randn(1, 4, 4, 4, 4))
    weight = torch.randn(3, 4, *[kernel] * 3, requires_grad=True)
    convolve(x, weight, None, kernel // 2).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_convolution_is_left_to_pytorch_where_that_takes_onednn_or_another_type() -> None:
    x = channels_last(torch.zeros(1, 2, 4, 4, 4))
    assert is_ours(x, 3)
    assert is_ours(x.expand(3, 2, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d), 1)
    assert not is_ours(x.expand(3, 2, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d), 3)
    assert not is_ours(x.contiguous(), 3)
    assert not is_ours(x[:, :1].contiguous(), 3)  # of one channel, which both layouts store alike
    assert is_ours(channels_last(x[:, :1]), 3)
    assert not is_ours(x.double(), 3)
    assert not is_ours(x.bfloat16(), 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_ours(x, 3)


@pytest.mark.parametrize("batch", [1, 2])
def test_no_convolution_of_a_step_runs_in_slow_conv3d(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of PyTorch's dispatch too: without this module most of them do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on several threads PyTorch takes oneDNN more often
    try:
        assert slow_convolutions(batch) == 0
        monkeypatch.setattr(convolution_module, "is_ours", lambda x, kernel: False)
        assert slow_convolutions(batch) > 20
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_model_in_contiguous_layout_is_plain_pytorch(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what benchmarks compare with."""

    def forbidden(*_: object) -> None:
        raise AssertionError("a function of ours was called")

    for function in (convolution_module._Convolution, batch_norm_module._BatchNorm):
        monkeypatch.setattr(function, "apply", forbidden)
    model = prepare(AdaMSS(ModelSettings(width=1, norm=norm)), channels_last=False)  # type: ignore[arg-type]
    model(*torch.rand(2, 1, 1, 32, 32, 32))
    with pytest.raises(AssertionError, match="ours"):
        prepare(model)(*torch.rand(2, 1, 1, 32, 32, 32))


def slow_convolutions(batch: int) -> int:
    torch.manual_seed(0)
    model = prepare(AdaMSS(ModelSettings(width=2)))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        output = model(*torch.rand(2, batch, 1, 32, 32, 32))
        assert output.segmentation is not None
        assert output.survival is not None
        (output.segmentation.square().mean() + output.survival.mean()).backward()
    return sum("slow_conv3d" in event.name for event in profile.events())
