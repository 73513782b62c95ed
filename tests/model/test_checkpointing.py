"""Activation checkpointing: the step is the eager one bit for bit, and norms see each batch once."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from adamss_fl.model import AdaMSS, ModelSettings, architecture_hash, autocast, prepare, prepare_images
from adamss_fl.model.precision import Precision


def step(
    checkpointing: bool, width: int, precision: Precision, last: bool, norm: str = "batch"
) -> tuple[AdaMSS, Tensor, dict[str, Tensor], int]:
    """One training step of both heads, with dropout; the fourth value is how many convolutions were run forwards."""
    torch.manual_seed(1)
    model = prepare(AdaMSS(ModelSettings(width=width, bins=4, norm=norm)), "cpu", last)  # type: ignore[arg-type]
    model.checkpointing = checkpointing
    runs: list[None] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            # Several real batches have gone by, so that an update too many would show.
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(7)
        if isinstance(module, nn.Conv3d):
            module.register_forward_pre_hook(lambda *_: runs.append(None))
    pet, ct = (prepare_images(torch.rand(2, 1, 32, 32, 32), channels_last=last) for _ in range(2))
    with autocast("cpu", precision):
        output = model(pet, ct)
    assert output.segmentation is not None
    assert output.survival is not None
    loss = output.segmentation.square().mean() + output.survival.square().mean()
    loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return model, loss.detach(), gradients, len(runs)


@pytest.mark.parametrize(
    ("width", "precision", "last", "norm"),
    [(1, "fp32", False, "batch"), (2, "bf16", True, "batch"), (1, "bf16", False, "batch"), (1, "fp32", True, "group")],
)
def test_a_checkpointed_step_is_the_eager_one_bit_for_bit(
    width: int, precision: Precision, last: bool, norm: str
) -> None:
    eager, loss, gradients, runs = step(False, width, precision, last, norm)
    lean, same_loss, same_gradients, more_runs = step(True, width, precision, last, norm)
    assert torch.equal(loss, same_loss)
    assert gradients.keys() == same_gradients.keys()
    assert [name for name in gradients if not torch.equal(gradients[name], same_gradients[name])] == []
    after, same_after = eager.state_dict(), lean.state_dict()
    assert [name for name in after if not torch.equal(after[name], same_after[name])] == []
    assert more_runs > 1.5 * runs
    counters = [value for name, value in same_after.items() if name.endswith("num_batches_tracked")]
    assert all(int(counter) == 8 for counter in counters)
    assert bool(counters) == (norm == "batch")


def test_momentum_and_counters_are_put_back() -> None:
    model, *_ = step(True, 1, "fp32", False)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    assert {norm.momentum for norm in norms} == {nn.BatchNorm3d(1).momentum}
    assert all(a.num_batches_tracked is not b.num_batches_tracked for a, b in pairwise(norms))


def test_without_gradients_or_training_nothing_is_run_twice() -> None:
    model = AdaMSS(ModelSettings(width=1)).eval()
    images = [torch.rand(1, 1, 16, 16, 16) for _ in range(2)]
    expected = model(*images).survival
    model.checkpointing = True
    assert torch.equal(model(*images).survival, expected)
    with torch.no_grad():
        assert torch.equal(model(*images).survival, expected)


def test_it_is_no_part_of_the_architecture() -> None:
    model = AdaMSS(ModelSettings(width=1))
    names = set(model.state_dict())
    model.checkpointing = True
    assert set(model.state_dict()) == names
    assert architecture_hash(model.settings) == architecture_hash(ModelSettings(width=1))
