"""bfloat16 training: every parameter's gradient points where the fp32 one does."""

import pytest
import torch
from torch import Tensor

from adamss_fl.model import AdaMSS, ModelSettings, autocast, prepare, prepare_images
from adamss_fl.model import blocks as blocks_module


def lesions(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """PET, CT (2,1,32,32,32) and masks (2,2,32,32,32) of two balls each, hot in PET, in noise."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.arange(32.0),) * 3, indexing="ij")
    centres = 8 + 16 * torch.rand(2, 2, 3, generator=generator)
    squared = sum((axes[i] - centres[:, :, i].view(2, 2, 1, 1, 1)) ** 2 for i in range(3))
    masks = (torch.as_tensor(squared) < 36).float()
    noise = torch.rand(2, 2, 1, 32, 32, 32, generator=generator)
    pet, ct = (
        prepare_images(masks.amax(1, keepdim=True) * share + 0.3 * noise[i]) for i, share in ((0, 0.7), (1, 0.2))
    )
    return pet, ct, masks


def gradients(precision: str, seed: int) -> dict[str, Tensor]:
    """Gradient of a smooth loss over both heads at 32^3, width 2, batch 2, after a step has opened the gates."""
    torch.manual_seed(seed)
    model = prepare(AdaMSS(ModelSettings(width=2, dropout=0.0)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".contrast." in name:
                parameter += 0.1 * torch.randn(parameter.shape)
        # Heads that have learnt, not heads at rest, which pass hardly any gradient on: a segmentation head whose
        # weights are all of one sign sends back a nearly constant gradient, of which the norms leave but the rounding.
        torch.nn.init.kaiming_normal_(model.segmentation_head.conv.weight, nonlinearity="relu")
        torch.nn.init.kaiming_normal_(model.survival_head.output.weight, nonlinearity="linear")
        for bias in (model.survival_head.output.bias, model.segmentation_head.conv.bias):
            torch.nn.init.zeros_(bias)  # type: ignore[arg-type]
    pet, ct, target = lesions(seed)
    with autocast("cpu", precision):  # type: ignore[arg-type]
        output = model(pet, ct)
    assert output.segmentation is not None
    assert output.survival is not None
    assert output.segmentation.dtype == output.survival.dtype == output.gate_opening.dtype == torch.float32
    loss = torch.nn.functional.binary_cross_entropy_with_logits(output.segmentation, target)
    (loss + torch.nn.functional.softplus(output.survival).mean()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def gradients_of_seeds(precision: str, seeds: range) -> dict[str, Tensor]:
    """``gradients`` of the seeds side by side: where a kernel nearly cancels in one net, it does not in the next."""
    each = [gradients(precision, seed) for seed in seeds]
    return {name: torch.stack([one[name] for one in each], -1) for name in each[0]}


def kernel_agreement(exact: dict[str, Tensor], low: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """(cosine, ratio of norms) against fp32 for every 3x3x3 kernel."""
    return {
        name: (float((a * low[name]).sum() / (a.norm() * low[name].norm())), float(low[name].norm() / a.norm()))
        for name, a in exact.items()
        if a.shape[2:5] == (3, 3, 3)
    }


def fits(cosine: float, ratio: float) -> bool:
    return cosine > 0.6 and 0.6 < ratio < 1.5


def flat(gradients_by_name: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradients_by_name[name].flatten() for name in sorted(gradients_by_name)])


def test_bfloat16_gradient_of_every_parameter_agrees_with_fp32() -> None:
    """The bounds are what rounding alone gives: over eight nets a kernel's cosine is 0.83 up."""
    exact, low = (gradients_of_seeds(precision, range(8)) for precision in ("fp32", "bf16"))
    assert exact.keys() == low.keys()
    a, b = flat(exact), flat(low)
    assert float((a * b).sum() / (a.norm() * b.norm())) > 0.96
    assert float(b.norm() / a.norm()) == pytest.approx(1, abs=0.05)
    apart = {name: float((exact[name] - low[name]).norm() / a.norm()) for name in exact}
    assert max(apart.values()) < 0.2, max(apart.items(), key=lambda item: item[1])
    for name, (cosine, ratio) in kernel_agreement(exact, low).items():
        assert fits(cosine, ratio), f"{name}: cosine {cosine:.3f}, ratio of norms {ratio:.3f}"


def test_without_the_guard_level_five_kernels_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above sees the trap: with the guard taken out some kernel of the deepest level fails it."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("bfloat16 convolutions do not go to oneDNN here")
    exact = gradients_of_seeds("fp32", range(2))
    monkeypatch.setattr(blocks_module, "needs_fp32_convolution", lambda x, kernel: False)
    agreement = kernel_agreement(exact, gradients_of_seeds("bf16", range(2)))
    wrong = {name for name, (cosine, ratio) in agreement.items() if not fits(cosine, ratio)}
    assert any("level5" in name for name in wrong)


def test_prepare_changes_layout_and_not_a_value() -> None:
    torch.manual_seed(0)
    model = AdaMSS(ModelSettings(width=1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepared = prepare(model, "cpu", channels_last=True)
    assert prepared is model
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    kernel = model.get_parameter("encoder.fusion.level2.convs.0.conv.weight")
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d)


def test_images_are_brought_to_fp32_and_the_asked_layout() -> None:
    image = torch.rand(2, 1, 4, 4, 4, dtype=torch.float64)
    prepared = prepare_images(image.expand(2, 2, 4, 4, 4), channels_last=True)
    assert prepared.dtype == torch.float32
    assert prepared.is_contiguous(memory_format=torch.channels_last_3d)
    assert prepare_images(prepared, channels_last=False).is_contiguous()


def test_fp32_is_left_alone() -> None:
    with autocast("cpu", "fp32"):
        assert not torch.is_autocast_enabled("cpu")
    with autocast("cpu", "bf16"):
        assert torch.is_autocast_enabled("cpu")
