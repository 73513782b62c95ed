"""Every faster way to a result gives the result of the plain operators, and its gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from adamss_fl.model import AdaMSS, ModelSettings, autocast, prepare
from adamss_fl.model.encoder import join
from adamss_fl.model.layout import channels_last, is_channels_last, keep_freed_memory, keep_layout
from adamss_fl.model.precision import Precision
from adamss_fl.model.resampling import average_pool2, nearest_up2, times_map
from adamss_fl.model.upsampled import cell_kernels, conv_with_upsampled, pays_off

Resample = Callable[[Tensor], Tensor]


def gradients(y: Tensor, inputs: list[Tensor], seen: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, inputs, seen)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("last", [False, True])
def test_convolution_on_the_small_map_equals_the_one_on_the_upsampled(kernel: int, last: bool) -> None:
    torch.manual_seed(0)
    s, g = torch.randn(2, 3, 6, 4, 8).double(), torch.randn(2, 4, 3, 2, 4).double()
    weight, bias = torch.randn(5, 7, kernel, kernel, kernel).double(), torch.randn(5).double()
    inputs = [(channels_last(x) if last and x.dim() == 5 else x).requires_grad_() for x in (s, g, weight, bias)]
    s, g, weight, bias = inputs
    both = torch.cat((s, functional.interpolate(g, scale_factor=2, mode="nearest")), 1)
    plain = functional.conv3d(both, weight, bias, padding=kernel // 2)
    fast = conv_with_upsampled(s, g, weight, bias)
    torch.testing.assert_close(fast, plain)
    seen = torch.randn_like(plain)
    for mine, theirs in zip(gradients(fast, inputs, seen), gradients(plain, inputs, seen), strict=True):
        torch.testing.assert_close(mine, theirs)


def plain_average(x: Tensor) -> Tensor:
    return functional.avg_pool3d(x, 2)


def plain_nearest(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


@pytest.mark.parametrize(("fast", "plain"), [(average_pool2, plain_average), (nearest_up2, plain_nearest)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("last", [False, True])
def test_resampling_equals_the_plain_operator(fast: Resample, plain: Resample, channels: int, last: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, channels, 6, 4, 8).double()
    x = (channels_last(x) if last else x).requires_grad_()
    mine, theirs = fast(x), plain(x)
    torch.testing.assert_close(mine, theirs)
    assert is_channels_last(mine) or not last
    seen = torch.randn_like(theirs)
    torch.testing.assert_close(gradients(mine, [x], seen), gradients(theirs, [x], seen))


def test_sums_over_cells_are_formed_in_fp32() -> None:
    cells = torch.full((1, 2, 2, 2, 2), 1.0 / 256)
    cells[:, :, 0, 0, 0] = 1
    x = channels_last(cells).bfloat16()  # 1 + 1/256 is 1 in bfloat16
    pooled = average_pool2(x)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, torch.full((1, 2, 1, 1, 1), (1 + 7 / 256) / 8), rtol=0, atol=0)
    small = channels_last(torch.zeros(1, 2, 1, 1, 1)).bfloat16().requires_grad_()
    (gradient,) = gradients(nearest_up2(small), [small], x)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1 + 7 / 256), rtol=0, atol=1 / 256)
    assert bool((gradient > 1).all())


@pytest.mark.parametrize("last", [False, True])
def test_one_map_weighs_every_channel(last: bool) -> None:
    torch.manual_seed(0)
    x, weights = torch.randn(2, 3, 4, 2, 6).double(), torch.rand(2, 1, 4, 2, 6).double().requires_grad_()
    x = (channels_last(x) if last else x).requires_grad_()
    torch.testing.assert_close(times_map(x, weights), x * weights, rtol=0, atol=0)
    seen = torch.randn_like(x)
    mine, theirs = gradients(times_map(x, weights), [x, weights], seen), gradients(x * weights, [x, weights], seen)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("last", [False, True])
def test_joined_maps_get_their_gradients_whole(last: bool) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(1, channels, 2, 4, 2).double() for channels in (2, 3)]
    maps = [(channels_last(x) if last else x).requires_grad_() for x in maps]
    joined = join(*maps)
    torch.testing.assert_close(joined, torch.cat(maps, 1), rtol=0, atol=0)
    for gradient in gradients(joined, maps, torch.randn_like(joined)):
        assert is_channels_last(gradient) if last else gradient.is_contiguous()


def test_cell_kernels_keep_the_sum_of_the_weights() -> None:
    weight = torch.randn(3, 2, 3, 3, 3).double()
    sums = cell_kernels(weight).view(8, 3, 2, 8).sum(-1)
    torch.testing.assert_close(sums, weight.sum((2, 3, 4)).expand(8, 3, 2))


def test_the_small_map_is_used_on_large_channels_last_maps_only() -> None:
    s, g = torch.zeros(1, 2, 16, 16, 16), torch.zeros(1, 4, 8, 8, 8)
    assert not pays_off(s, g)
    assert pays_off(channels_last(s), channels_last(g))
    assert not pays_off(channels_last(s[..., :8, :8, :8]), channels_last(g[..., :4, :4, :4]))


def test_a_one_channel_map_gets_the_strides_of_channels_last() -> None:
    image = torch.rand(2, 2, 3, 4, 5)[:, 1:]
    last = channels_last(image)
    assert torch.equal(last, image)
    assert torch.empty_like(last.expand(2, 1, 3, 4, 5)).stride() == last.stride()
    assert last.stride() == (60, 1, 20, 5, 1)


@pytest.mark.parametrize("batch", [1, 2])
def test_keep_layout_brings_the_gradient_back(batch: int) -> None:
    x = channels_last(torch.rand(batch, 2, 4, 4, 4)).requires_grad_()
    kept = keep_layout(x)
    assert kept.stride() == x.stride()
    seen = torch.rand(batch, 2, 4, 4, 4)
    (gradient,) = torch.autograd.grad(kept, x, seen)
    assert torch.equal(gradient, seen)
    assert is_channels_last(gradient)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_no_map_and_no_gradient_leaves_channels_last(batch: int, precision: Precision) -> None:
    """One stray layout slows down every elementwise operator after it. Maps of 4^3 and less may: they are tiny."""
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("bfloat16 convolutions do not go to oneDNN here")
    model = prepare(AdaMSS(ModelSettings(width=2)))
    stray: list[str] = []

    def watch(name: str, x: Tensor) -> None:
        if x.shape[2] > 4 and not is_channels_last(x):
            stray.append(f"{name} {tuple(x.shape)} {x.stride()}")

    def hook(name: str, output: Tensor) -> None:
        watch(name, output)
        output.register_hook(lambda gradient: watch(f"gradient of {name}", gradient))

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(lambda _, __, output, name=name: hook(name, output))
    with autocast("cpu", precision):
        output = model(*torch.rand(2, batch, 1, 32, 32, 32))
    assert output.segmentation is not None
    assert output.survival is not None
    (output.segmentation.contiguous().square().mean() + output.survival.mean()).backward()
    assert not stray


def test_kept_memory_is_a_choice_of_glibc_alone() -> None:
    assert keep_freed_memory() in (True, False)
